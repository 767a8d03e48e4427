"""Image classification data for a search: train (weights), valid (architecture), test (read once, at the end)."""

from asose_fast.data.config import DataConfig
from asose_fast.data.errors import DataError, DataNotFoundError
from asose_fast.data.load import Data, load_data
from asose_fast.data.split import Split

__all__ = ["Data", "DataConfig", "DataError", "DataNotFoundError", "Split", "load_data"]
