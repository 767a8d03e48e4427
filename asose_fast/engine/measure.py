"""The metrics of an epoch are measured when it ends."""

from __future__ import annotations

import dataclasses

from asose_fast.engine.health import indicators as health
from asose_fast.engine.health.collapse import idle_mass
from asose_fast.engine.health.curvature import curvature
from asose_fast.engine.health.weightless import weightless_share
from asose_fast.engine.phases import Phase
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState


def measure(state: SearchState, phase: Phase) -> Record:
    """Returns the metrics of the epoch that has ended. Where there is something to validate on, the network's norms get
    the statistics of the derived path."""
    progress, selector, meters = state.progress, state.selector, (state.weight_meter, state.alpha_meter)
    alone = phase.rules.updates == "alpha"
    loss, train_accuracy = progress.timed((state.alpha_meter if alone else state.weight_meter).read)
    derived = state.derived()
    if state.validates:
        state.calibrate(derived)
    entropy, max_prob = selector.monitor()
    record: Record = {
        "epoch": progress.epoch + 1,
        "phase": phase.name,
        "train_loss": loss,
        "train_accuracy": train_accuracy,
        "valid_accuracy": state.valid_accuracy(derived) if state.validates else None,
        **state.task.metric.said,
        "temperature": state.config.temperature_floor if phase.derives else selector.temperature,
        "entropy": float(entropy.mean()),
        "max_weight": float(max_prob.mean()),
        "entropy_by_layer": entropy.tolist(),
        "max_weight_by_layer": max_prob.tolist(),
        "candidates": max(selector.open_counts()),
        "idle_mass": idle_mass(selector.logits().detach().softmax(1), selector.candidates),
        "curvature": _curvature(state, phase),
        "path": list(derived.operations),
        "weightless": weightless_share(derived.spec),
        "learning_rate": state.learning_rate(phase),
        "alpha_steps": progress.alpha_steps,
        "batch_size_errors": sum(m.size_errors for m in meters),
        "seconds": progress.epoch_seconds,
        "images_per_second": sum(m.images for m in meters) / progress.epoch_seconds,
    }
    found = health.indicators(state.config, state.task.classes, record, state.history)
    record["health"] = [dataclasses.asdict(indicator) for indicator in found]
    if state.finals:
        record["finals"] = [rung for rung in state.finals.rungs if rung["epoch"] == record["epoch"]]
    return record


def _curvature(state: SearchState, phase: Phase) -> float | None:
    """Returns the curvature on the first validation batch, where it is the turn of this epoch."""
    every = state.config.curvature_every
    if not phase.searching or not every or (state.progress.epoch + 1) % every:
        return None
    x, y = next(state.data.valid.batches(0, shuffle=False, augment=False))
    return curvature(state.network, x, y, state.selector.logits().detach(), state.task.objective)
