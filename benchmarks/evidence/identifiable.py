"""Could anyone tell which operations were planted? `python -m benchmarks.evidence.identifiable [--seed 0]`

Trains the planted path of `benchmarks.evidence.planted` from scratch on the teacher's labels, and every path that
differs from it in one layer. Where the weights are learned, an operation can only be found if no other one does as
well in its place: reported is, layer by layer, how many do.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from asose_fast.config import Config
from asose_fast.space import NetworkSpec
from benchmarks.evidence.planted import CLASSES, SEARCH, make_task
from benchmarks.evidence.report import Table, summary, write
from benchmarks.evidence.training import train


def trained(seed: int, layer: int, candidate: int, epochs: int) -> float:
    """Validation accuracy of the planted path with `candidate` in place of the planted operation of `layer`."""
    torch.set_num_threads(1)
    config = Config(**{**SEARCH, "seed": seed})
    task = make_task(config, seed)
    path = list(task.path)
    path[layer] = candidate
    spec = NetworkSpec.chain(config, 3, CLASSES).derive(path)
    return train(spec, task.data, config, epochs=epochs, seed=seed).valid_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.identifiable", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    config = Config(**{**SEARCH, "seed": options.seed})
    path = make_task(config, options.seed, images=50).path
    jobs = [(layer, k) for layer in range(len(path)) for k in range(len(config.candidates)) if k != path[layer]]
    with ProcessPoolExecutor(options.processes) as pool:
        planted = pool.submit(trained, options.seed, 0, path[0], options.epochs)
        others = [pool.submit(trained, options.seed, layer, k, options.epochs) for layer, k in jobs]
        found = {job: future.result() for job, future in zip(jobs, others, strict=True)}
        reference = planted.result()
    table = Table("layer", "planted", f"others at {reference:.1%} or more", "best other", "its accuracy")
    rows = []
    for layer, planted_candidate in enumerate(path):
        accuracies = {config.candidates[k]: a for (row, k), a in found.items() if row == layer}
        best = max(accuracies, key=lambda name: accuracies[name])
        as_good = sum(a >= reference for a in accuracies.values())
        name = config.candidates[planted_candidate]
        table.row(layer, name, f"{as_good} of {len(accuracies)}", best, f"{accuracies[best]:.1%}")
        rows.append({"planted": name, "others": accuracies})
    write(options.out, {**summary(options), "planted_accuracy": reference, "layers": rows})


if __name__ == "__main__":
    main()
