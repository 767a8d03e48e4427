"""Fast, correct differentiable architecture search (ASO-SE) for PyTorch."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("asose_fast")
except PackageNotFoundError:
    __version__ = "0+source"

from asose_fast import ops
from asose_fast.config import Config
from asose_fast.derived import load
from asose_fast.search import Observer, PhaseSpec, Searcher, SearchPackage, SearchResult, package
from asose_fast.space import MixedOp

search: SearchPackage = package

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
