"""Where images come from: one file a kind of set."""

from asose_fast.data.sources.find import find_source
from asose_fast.data.sources.source import Source

__all__ = ["Source", "find_source"]
