"""Fast, correct differentiable architecture search (ASO-SE) for PyTorch."""

from asose_fast import ops
from asose_fast.config import Config
from asose_fast.engine.observer import Observer
from asose_fast.engine.phases import PhaseSpec
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask, Task
from asose_fast.engine.trainer import Trainer
from asose_fast.library.run import SearchResult, search
from asose_fast.library.searcher import Searcher
from asose_fast.predict.predictor import Predictor
from asose_fast.space.mixed import MixedOp
from asose_fast.space.wrap import wrap, wrappable
from asose_fast.store.derived import load
from asose_fast.version import __version__

__all__ = [
    "Config",
    "ImageTask",
    "MixedOp",
    "Observer",
    "PhaseSpec",
    "Predictor",
    "SearchResult",
    "SearchState",
    "Searcher",
    "Task",
    "Trainer",
    "__version__",
    "load",
    "ops",
    "search",
    "wrap",
    "wrappable",
]
