"""Fast, correct differentiable architecture search (ASO-SE) for PyTorch."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("asose_fast")
except PackageNotFoundError:
    __version__ = "0+source"

if TYPE_CHECKING:
    from asose_fast import ops
    from asose_fast.config import Config
    from asose_fast.derived import load
    from asose_fast.search import (
        ImageTask,
        Observer,
        PhaseSpec,
        Searcher,
        SearchPackage,
        SearchResult,
        SearchState,
        Task,
        Trainer,
    )
    from asose_fast.space import MixedOp

    search: SearchPackage

__all__ = [
    "Config",
    "ImageTask",
    "MixedOp",
    "Observer",
    "PhaseSpec",
    "SearchResult",
    "SearchState",
    "Searcher",
    "Task",
    "Trainer",
    "__version__",
    "load",
    "ops",
    "search",
]

_HOMES = {"Config": "config", "MixedOp": "space", "load": "derived"} | dict.fromkeys(
    ("ImageTask", "Observer", "PhaseSpec", "SearchResult", "SearchState", "Searcher", "Task", "Trainer"), "search"
)
"""The module of each name that is no module itself."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: `asose-fast --help` needs no torch, and a derived network no search."""
    if name not in __all__:
        raise AttributeError(f"module 'asose_fast' has no attribute {name!r}")
    home = importlib.import_module(f"asose_fast.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home
