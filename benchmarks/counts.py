"""What a step costs, as far as it can be counted exactly: `python -m benchmarks.counts [--check|--update]`

Of the steps of the six-layer supernet (16 channels, batch 4): operators that PyTorch's dispatcher sees, those of ours
among them, copies, values read by the host (one by Adam, of its own counter), autograd nodes, bytes saved for backward,
and graph breaks of torch.compile. `--check` fails where a count is above that in benchmarks/results/counts.json,
`--update` writes that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from asose_fast import ops
from asose_fast.ops import ArchWeights
from benchmarks.counting import graph_breaks, operators
from benchmarks.memory import saved_bytes
from benchmarks.steps import Steps, make, ours, warm_up

STORED = Path(__file__).resolve().parent / "results" / "counts.json"
COPIES = {"aten.clone", "aten.copy_", "aten._to_copy", "aten.contiguous"}
READS = {"aten._local_scalar_dense", "aten.item", "aten.is_nonzero"}
BATCH = 4


def autograd_nodes(result: torch.Tensor) -> int:
    """Nodes of the graph behind a result, leaves included."""
    seen: set[Any] = set()
    waiting = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return len(seen)


def sample(steps: Steps) -> ArchWeights:
    """Every layer another candidate: pool, skip, separable and dilated convolutions."""
    noise = torch.zeros_like(steps.logits)
    for layer in range(len(noise)):
        noise[layer, layer + 2] = 1
    return ops.arch_weights(steps.logits, 1.0, noise=noise)


def step_counts(steps: Steps, kind: str) -> dict[str, int]:
    """Of a step that was taken before, so that nothing is made for the first time."""
    scores: list[torch.Tensor] = []
    hook = steps.model.register_forward_hook(lambda module, inputs, output: scores.append(output))
    sampled = [] if kind == "soft" else [sample(steps)]
    called = operators(lambda: getattr(steps, kind)(*sampled))
    hook.remove()

    def among(names: set[str]) -> int:
        return sum(count for name, count in called.items() if name.rpartition(".")[0] in names)

    return {
        "operators": called.total(),
        "own operators": sum(count for name, count in called.items() if name.startswith("asose_fast.")),
        "copies": among(COPIES),
        "values read by the host": among(READS),
        "autograd nodes": sum(map(autograd_nodes, scores)),
    }


def all_graph_breaks() -> dict[str, int]:
    """Of torch.compile, in a step's forward pass and in the operators alone."""
    network, x, _ = make(2)
    logits = torch.zeros(6, 10, requires_grad=True)
    xs = [torch.randn(2, 4, 8, 8, requires_grad=True) for _ in range(3)]
    functions = {
        "soft forward": lambda: network(x, ops.arch_weights(logits, 1.0, hard=False).weights),
        "sampled forward": lambda: network(x, path=[4] * 6),
        "arch_weights": lambda: ops.arch_weights(logits, 1.0, boost=ops.Boost()).weights,
        "mixed_sum": lambda: ops.mixed_sum(xs, logits[0, :3]),
    }
    return {name: graph_breaks(function) for name, function in functions.items()}


def collect() -> dict[str, int]:
    """All counts, by what was counted."""
    found: dict[str, int] = {}
    parts = make(BATCH)
    steps = ours(*parts)
    warm_up({"ours": steps})
    for kind in ("soft", "alpha", "weight"):
        getattr(steps, kind)()
        for what, count in step_counts(steps, kind).items():
            found[f"{kind} step: {what}"] = count
    for memory in ("save", "recompute"):
        found[f"soft step, memory={memory}: saved bytes"] = saved_bytes(ours(*parts, memory=memory).forward)
    return found | {f"{name}: graph breaks": count for name, count in all_graph_breaks().items()}


def compare(found: dict[str, int], stored: dict[str, int]) -> tuple[list[str], list[str]]:
    """What is worse than stored, or new or gone, and what is better."""
    worse = [f"{name}: {found.get(name)} (stored: {stored.get(name)})" for name in found.keys() ^ stored.keys()]
    better = []
    for name in found.keys() & stored.keys():
        if found[name] != stored[name]:
            (worse if found[name] > stored[name] else better).append(f"{name}: {stored[name]} -> {found[name]}")
    return sorted(worse), sorted(better)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail where a count is above the stored one")
    what.add_argument("--update", action="store_true", help="store the counts")
    options = parser.parse_args(arguments)
    version = torch.__version__.split("+")[0]
    with ops.backend("cpu"):  # the same counts whatever oneDNN is left on this instruction set
        found = collect()
    for name, count in found.items():
        print(f"{name:45s} {count}")
    if options.update:
        STORED.write_text(json.dumps({"torch": version, "counts": found}, indent=1) + "\n")
    if not options.check:
        return 0
    stored = json.loads(STORED.read_text())
    worse, better = compare(found, stored["counts"])
    for line in better:
        print(f"better: {line}: `python -m benchmarks.counts --update` stores it")
    for line in worse:
        print(f"worse: {line}")
    if worse and version != stored["torch"]:
        print(f"counted with torch {version}, stored with {stored['torch']}: no failure")
        return 0
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
