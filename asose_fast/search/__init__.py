"""The search: architecture sampling, the two kinds of step, the four phases, growth and health.

The package can be called: `asose_fast.search(model, loaders)` is `asose_fast.search.library.search`.
"""

import sys
from types import ModuleType
from typing import cast

from asose_fast.search.diverged import SearchDivergedError
from asose_fast.search.library import Searcher, SearchResult, search
from asose_fast.search.observer import Observer
from asose_fast.search.phases import Phase, PhaseSpec
from asose_fast.search.state import SearchState
from asose_fast.search.task import ImageTask, Task
from asose_fast.search.trainer import InterruptedRunError, Trainer

__all__ = [
    "ImageTask",
    "InterruptedRunError",
    "Observer",
    "Phase",
    "PhaseSpec",
    "SearchDivergedError",
    "SearchResult",
    "SearchState",
    "Searcher",
    "Task",
    "Trainer",
]


class SearchPackage(ModuleType):
    """This package, with the function of its name as what it does when it is called."""

    __call__ = staticmethod(search)


package = cast(SearchPackage, sys.modules[__name__])
package.__class__ = SearchPackage
