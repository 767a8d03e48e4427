"""All networks of a comparison are trained alike, from scratch, as a run trains what it has found."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.engine.comparison.trained import Trained
from asose_fast.engine.observer import Observer
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.optimizers import of_derived
from asose_fast.space.build import Spec, spec_from_dict
from asose_fast.space.cost import cost_of
from asose_fast.space.latency import Target, network_latency
from asose_fast.space.network import NetworkSpec
from asose_fast.stopping import stopping_on_signals
from asose_fast.store import checkpoint_folder, derived

STEPS = 8
"""So many steps are timed before a training."""


def training_config(config: Config, epochs: int, seed: int) -> RetrainConfig:
    """Returns the settings with which a run of `config` trains its derived network, for `epochs` epochs."""
    own = dataclasses.asdict(of_derived(config))
    names = {field.name for field in dataclasses.fields(RetrainConfig)} & own.keys() - {"channels", "cells", "seconds"}
    shared = {name: own[name] for name in names}
    return RetrainConfig(**{**shared, "batch_size": max(2, config.batch_size), "epochs": epochs, "seed": seed})


class _Enough(Exception):
    """As many steps are timed as are needed."""


class _Stopwatch(Observer):
    """Ends a training after a few steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, state: SearchState) -> None:
        state.weight_meter.read()  # waits for a GPU
        self.times.append(time.perf_counter())
        if len(self.times) > STEPS:
            raise _Enough


def seconds_per_epoch(config: RetrainConfig, spec: Spec, data: Data, device: torch.device) -> float:
    """Measures a few steps of a network that is thrown away."""
    watch, state = _Stopwatch(), TrainingState(dataclasses.replace(config, epochs=STEPS + 1), spec, data, device)
    with contextlib.suppress(_Enough):
        Retrainer(state, observers=[watch]).run()
    step = statistics.median(after - before for before, after in itertools.pairwise(watch.times))
    return step * state.data.train.num_batches()


def train(
    name: str,
    spec: NetworkSpec,
    config: RetrainConfig,
    data: Data,
    device: torch.device,
    folder: Path,
    observers: Sequence[Observer],
    warn: Callable[[str], None],
    target: Target,
) -> Trained:
    """Trains a network, or goes on with it, and leaves it in `folder` as a run leaves what it found.

    Then its latency is measured on `target`, as `completed` does.

    Raises InterruptedRunError or CheckpointError; what was checkpointed stays.
    """
    state = TrainingState(config, spec, data, device)
    if checkpoint_folder.holds_checkpoints(folder / "checkpoints"):
        state.load_state_dict(checkpoint_folder.load_newest(folder / "checkpoints", warn)[1])
    retrainer = Retrainer(state, folder, observers)
    retrainer.save("last")  # from here on it can go on, whenever it ends
    with stopping_on_signals(state.stop, "the same command"):
        retrainer.run()
    network = state.result.eval()
    size = derived.save(folder, network, classes=data.classes, mean=data.mean, std=data.std, image_size=data.image_size)
    seconds = float(sum(record["seconds"] for record in state.history))
    costs, accuracy = cost_of(spec, data.image_size), state.test_accuracy()
    found = Trained(name, spec.to_dict(), *costs, seconds, accuracy, size)
    return completed(found, folder, data.image_size, target, warn)


def completed(found: Trained, folder: Path, image_size: int, target: Target, warn: Callable[[str], None]) -> Trained:
    """Measures what is not known of a trained network yet: the size of its weights in `folder`, and its latency.

    Where `target` is not there, a warning says so, and the network has no latency.
    """
    if found.size is None and (weights := folder / derived.WEIGHTS).is_file():
        found = dataclasses.replace(found, size=weights.stat().st_size)
    if found.latency is not None:
        return found
    try:
        timing = network_latency(spec_from_dict(found.network), image_size, target)
    except ValueError as error:
        warn(f"the latency of {found.name} is not measured: {error}")
        return found
    return dataclasses.replace(found, latency=timing.low, latency_high=timing.high)
