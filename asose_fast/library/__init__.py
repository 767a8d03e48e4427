"""Search in any network, on any data: `asose_fast.search(model, loaders)` and `asose_fast.Searcher`."""
