"""Fast, correct differentiable architecture search (ASO-SE) for PyTorch."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("asose_fast")
except PackageNotFoundError:
    __version__ = "0+source"

import importlib
from typing import TYPE_CHECKING, Any

from asose_fast import ops
from asose_fast.config import Config
from asose_fast.derived import load
from asose_fast.space import MixedOp

if TYPE_CHECKING:
    from asose_fast.search import Observer, PhaseSpec, Searcher, SearchPackage, SearchResult

    search: SearchPackage

__all__ = [
    "Config",
    "MixedOp",
    "Observer",
    "PhaseSpec",
    "SearchResult",
    "Searcher",
    "__version__",
    "load",
    "ops",
    "search",
]


def __getattr__(name: str) -> Any:
    """The search is imported when it is asked for: a derived network needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'asose_fast' has no attribute {name!r}")
    package = importlib.import_module("asose_fast.search")
    return package if name == "search" else getattr(package, name)
