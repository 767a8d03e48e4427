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
    from asose_fast.engine.observer import Observer
    from asose_fast.engine.phases import PhaseSpec
    from asose_fast.engine.state import SearchState
    from asose_fast.engine.task import ImageTask, Task
    from asose_fast.engine.trainer import Trainer
    from asose_fast.library.run import SearchResult, search
    from asose_fast.library.searcher import Searcher
    from asose_fast.space.mixed import MixedOp
    from asose_fast.store.derived import load

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

_HOMES = {
    "Config": "config",
    "ImageTask": "engine.task",
    "MixedOp": "space.mixed",
    "Observer": "engine.observer",
    "PhaseSpec": "engine.phases",
    "SearchResult": "library.run",
    "SearchState": "engine.state",
    "Searcher": "library.searcher",
    "Task": "engine.task",
    "Trainer": "engine.trainer",
    "load": "store.derived",
    "search": "library.run",
}
"""The module of each name that is no module itself."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: `asose-fast --help` needs no torch, and a derived network no search."""
    if name not in __all__:
        raise AttributeError(f"module 'asose_fast' has no attribute {name!r}")
    home = importlib.import_module(f"asose_fast.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home
