"""The configuration of a run: one flat, typed dataclass, made of the parts that the modules declare."""

from __future__ import annotations

import dataclasses
from typing import Any

from asose_fast.data.config import DataConfig
from asose_fast.search.growth import GrowthConfig
from asose_fast.search.health import HealthConfig
from asose_fast.search.optimizers import OptimizerConfig
from asose_fast.search.phases import PhaseConfig
from asose_fast.search.selector import SelectorConfig
from asose_fast.space.network import SpaceConfig


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What belongs to no other part."""

    batch_size: int = 64
    """Images per step; the last batch of an epoch may be smaller."""
    recalibration_batches: int = 16
    """Training batches that set the batch-norm statistics of a derived path before it is evaluated."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""
    strict: bool = False
    """End with a non-zero exit status where a health indicator is out of bounds at the end of the search."""


@dataclasses.dataclass(frozen=True)
class Config(
    RunConfig, HealthConfig, GrowthConfig, OptimizerConfig, SelectorConfig, PhaseConfig, SpaceConfig, DataConfig
):
    """Every setting of a run. A part of the program takes a Config where it asks for its own part."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises TypeError for an unknown key."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Config(**settings)
