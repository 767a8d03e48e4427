"""Search in any network, on any data: what `asose_fast.search(model, loaders)` and `asose_fast.Searcher` are."""

from asose_fast.search.library.run import SearchResult, search
from asose_fast.search.library.searcher import Searcher

__all__ = ["SearchResult", "Searcher", "search"]
