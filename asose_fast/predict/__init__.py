"""This package applies a derived network to image files. `asose-fast predict` is its command."""

from asose_fast.predict.predictions import Predictions
from asose_fast.predict.predictor import Predictor

__all__ = ["Predictions", "Predictor"]
