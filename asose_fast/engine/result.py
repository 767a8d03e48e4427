"""A finished run leaves behind genotype.json, model.safetensors, tested.json and summary.json; `load` reads the first
two."""

from __future__ import annotations

from pathlib import Path

import torch

from asose_fast.data import Data
from asose_fast.engine.alpha.budget import PER_MILLISECOND
from asose_fast.engine.health.weightless import advice, weightless_share
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState
from asose_fast.engine.tested.answers import answers
from asose_fast.engine.tested.record import recorded
from asose_fast.space.build import Spec, of_images
from asose_fast.space.cost import cost_of
from asose_fast.space.latency import Target, network_latency
from asose_fast.space.prune import left_out, pruned
from asose_fast.store.checkpoint import write_json
from asose_fast.store.derived import load, save
from asose_fast.version import __version__

__all__ = ["latency", "load", "write_result"]


def write_result(state: SearchState, data: Data, folder: Path) -> Record:
    """Reads the test split, once, and has the first process write the four files. Returns the summary.

    The network is the one of the best validation accuracy among the epochs of the optimize phase or, where this trained
    on all images, of the last epoch, without a validation accuracy. Blocks that compute nothing are left out of it.
    """
    found, processes = of_images(state.best_network()), state.processes
    network = pruned(found)
    said = answers(network, data.test, processes)
    record = processes.from_first(lambda: recorded(said, data))
    history = state.history
    target, predicted = state.task.budget.target, state.predicted_latency
    last_search = next(r for r in reversed(history) if r["phase"] in ("search", "growth"))
    summary = {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(state.device),
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "test_accuracy": said.accuracy,
        "valid_accuracy": state.progress.best_accuracy if state.validates else None,
        "optimize_on": state.config.optimize_on,
        "images": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
        "operations": list(network.operations),
        "left_out": left_out(found.spec),
        "weightless": weightless_share(found.spec),
        "shortcomings": state.shortcomings,
        "advice": advice(state.config, found.spec),
        "parameters": sum(p.numel() for p in network.parameters()),
        "flops": cost_of(network.spec, data.image_size).flops,
        "latency": processes.from_first(lambda: latency(network.spec, data.image_size, target, predicted)),
        "depth": network.depth,
        "growth": [r["growth"] for r in history if r.get("growth")],
        "finals": [rung for r in history for rung in r.get("finals", [])],
        "batch_size_errors": sum(r["batch_size_errors"] for r in history),
        "health": last_search["health"],
        "per_class": [of_class.to_dict() for of_class in record.per_class],
        "phases": {phase.name: _phase_summary(phase.name, history) for phase in state.phases},
    }

    def write() -> Record:
        record.save(folder)
        size = save(folder, network, classes=data.classes, mean=data.mean, std=data.std, image_size=data.image_size)
        whole = {**summary, "size": size}
        write_json(folder / "summary.json", whole)
        return whole

    return processes.from_first(write)


def latency(spec: Spec, image_size: int, target: Target, predicted: int | None = None) -> Record | None:
    """Returns what summary.json says of a derived network's latency: milliseconds with their spread, and what its
    candidates had `predicted`, in nanoseconds. None where `target` is not there."""
    if target.unusable:
        return None
    measured = network_latency(spec, image_size, target)
    values = {"milliseconds": measured.low, "median": measured.median, "high": measured.high, "predicted": predicted}
    return {**target._asdict(), **{name: value and value / PER_MILLISECOND for name, value in values.items()}}


def _phase_summary(name: str, history: list[Record]) -> dict[str, float | None]:
    records = [r for r in history if r["phase"] == name]
    return {
        "epochs": len(records),
        "seconds": sum(r["seconds"] for r in records),
        "images_per_second": sum(r["images_per_second"] for r in records) / len(records),
        "first_valid_accuracy": records[0]["valid_accuracy"],
        "last_valid_accuracy": records[-1]["valid_accuracy"],
    }
