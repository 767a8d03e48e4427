"""Images come from these sources. Each kind of set has a file."""

from asose_fast.data.sources.find import find_source
from asose_fast.data.sources.source import Source

__all__ = ["Source", "find_source"]
