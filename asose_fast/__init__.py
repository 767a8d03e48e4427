"""Fast, correct differentiable architecture search (ASO-SE) for PyTorch."""

from importlib.metadata import PackageNotFoundError, version

from asose_fast import ops
from asose_fast.derived import load

try:
    __version__ = version("asose_fast")
except PackageNotFoundError:
    __version__ = "0+source"

__all__ = ["__version__", "load", "ops"]
