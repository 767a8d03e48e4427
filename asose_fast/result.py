"""What a finished run leaves behind: genotype.json, model.safetensors, summary.json; and `load`, which reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from asose_fast import __version__
from asose_fast.checkpoint import write_atomically
from asose_fast.data import Data
from asose_fast.search.evaluate import accuracy
from asose_fast.search.trainer import Record, Trainer
from asose_fast.space.network import Network, NetworkSpec

GENOTYPE_FORMAT = "asose_fast genotype"


def write_result(trainer: Trainer, folder: Path) -> Record:
    """Reads the test split, once, and writes the three files. Returns the summary.

    The network is the one of the best validation accuracy among the epochs of the optimize phase.
    """
    network = trainer.best_network()
    test_accuracy = accuracy(network, trainer.data.test.batches(0))
    history = trainer.history
    last_search = next(r for r in reversed(history) if r["phase"] in ("search", "growth"))
    operations = [block.spec.candidates[0] for block in network.evolvable_blocks()]
    summary = {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "test_accuracy": test_accuracy,
        "valid_accuracy": trainer.progress.best_accuracy,
        "operations": operations,
        "parameters": sum(p.numel() for p in network.parameters()),
        "depth": len(network.blocks),
        "growth": [r["growth"] for r in history if r.get("growth")],
        "batch_size_errors": sum(r["batch_size_errors"] for r in history),
        "health": last_search["health"],
        "phases": {phase.name: _phase_summary(phase.name, history) for phase in trainer.phases},
    }
    genotype = {
        "format": GENOTYPE_FORMAT,
        "version": 1,
        "operations": operations,
        "classes": list(trainer.data.classes),
        "normalization": _normalization(trainer.data),
        "network": network.spec.to_dict(),
    }
    write_json(folder / "genotype.json", genotype)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", safetensors.torch.save(tensors))
    write_json(folder / "summary.json", summary)
    return summary


def load(run: str | Path) -> Network:
    """The derived network of a run folder, with its weights, in evaluation mode.

    Its input is (N, C, H, W) float32, normalised as `genotype.json` says. Raises OSError where a file is missing and
    ValueError for a foreign or damaged one.
    """
    folder = Path(run)
    text = (folder / "genotype.json").read_bytes()
    try:
        genotype = json.loads(text)
    except (ValueError, RecursionError):
        genotype = None
    known = isinstance(genotype, dict) and (genotype.get("format"), genotype.get("version")) == (GENOTYPE_FORMAT, 1)
    if not known:
        raise ValueError(f"{folder / 'genotype.json'} is not a genotype of asose_fast, version 1")
    try:
        with torch.device("meta"):  # whatever sizes a damaged genotype asks for
            network = Network(NetworkSpec.from_dict(genotype["network"]))
        network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), assign=True)
    except OSError:
        raise
    except Exception as error:  # of many types, by what is damaged
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"genotype.json or model.safetensors in {folder} is damaged ({reason})") from error
    return network.eval()


def write_json(path: Path, values: Any) -> None:
    """Writes `values` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def _normalization(data: Data) -> dict[str, list[float]]:
    return {"mean": list(data.mean), "std": list(data.std)}


def _phase_summary(name: str, history: list[Record]) -> dict[str, float]:
    records = [r for r in history if r["phase"] == name]
    return {
        "epochs": len(records),
        "seconds": sum(r["seconds"] for r in records),
        "images_per_second": sum(r["images_per_second"] for r in records) / len(records),
        "first_valid_accuracy": records[0]["valid_accuracy"],
        "last_valid_accuracy": records[-1]["valid_accuracy"],
    }
