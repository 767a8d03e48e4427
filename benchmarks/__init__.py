"""Speed, as ratios measured in one process (docs/performance.md). Run with `make bench`; one file a question."""
