"""The search: architecture sampling, the two kinds of step, the four phases, growth and health."""

from asose_fast.search.diverged import SearchDivergedError
from asose_fast.search.trainer import InterruptedRunError, Observer, Trainer

__all__ = ["InterruptedRunError", "Observer", "SearchDivergedError", "Trainer"]
