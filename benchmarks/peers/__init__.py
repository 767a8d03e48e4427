"""Beside other implementations of a search, on the same work (docs/performance.md)."""
