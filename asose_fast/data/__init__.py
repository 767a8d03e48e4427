"""This package feeds a search with images: train for the weights, valid for the architecture, test to be read once, at
the end."""

from asose_fast.data.config import DataConfig
from asose_fast.data.errors import DataError, DataNotFoundError
from asose_fast.data.load import Data, load_data, settled
from asose_fast.data.split import Split

__all__ = ["Data", "DataConfig", "DataError", "DataNotFoundError", "Split", "load_data", "settled"]
