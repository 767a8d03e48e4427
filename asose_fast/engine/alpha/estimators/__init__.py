"""Estimators of the architecture's gradient: how an alpha step samples, what it runs, and what alpha gets."""

from asose_fast.config import EstimatorConfig
from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator
from asose_fast.engine.alpha.estimators.gumbel_rao import GumbelRao
from asose_fast.engine.alpha.estimators.reinmax import ReinMax
from asose_fast.engine.alpha.estimators.single_path import Gdas, LocalScore
from asose_fast.engine.alpha.estimators.soft import Soft
from asose_fast.engine.alpha.estimators.straight_through import StraightThrough
from asose_fast.engine.alpha.estimators.two_path import TwoPath

ESTIMATORS: dict[str, type[Estimator]] = {
    "straight_through": StraightThrough,
    "soft": Soft,
    "reinmax": ReinMax,
    "gumbel_rao": GumbelRao,
    "gdas": Gdas,
    "local_score": LocalScore,
    "two_path": TwoPath,
}
"""By the names of `estimator` in the config."""


def make_estimator(config: EstimatorConfig) -> Estimator:
    """The estimator of a run."""
    return ESTIMATORS[config.estimator](config)


__all__ = ["ESTIMATORS", "Draw", "Estimator", "make_estimator"]
