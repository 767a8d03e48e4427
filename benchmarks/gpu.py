"""`python -m benchmarks.gpu [--device cuda] [--out FILE]`: both operators on a GPU, beside eager and torch.compile.

Times are medians of CUDA events around one step, variants interleaved, inputs rotated so that each step finds the L2
cache cold; the copy bandwidth is measured in the same run. On a CPU (`--device cpu`) it is a dry run of the script.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asose_fast import info, ops
from asose_fast.ops import registry
from benchmarks.baselines import eager_arch_weights, eager_mixed_sum

Step = Callable[[], object]


def timed(step: Step, device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cpu":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def medians(steps: dict[str, Step], device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Median and quartiles of every variant's seconds."""
    for step in itertools.chain.from_iterable(itertools.repeat(tuple(steps.values()), 3)):
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(timed(step, device))
    found = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        found[name] = {"median": median, "low": low, "high": high, "rounds": rounds}
    return found


def on(backend: str, step: Step) -> Step:
    """`step` with every operator on one backend."""

    def run() -> None:
        with ops.backend(backend):
            step()

    return run


def backends(op: str, device: torch.device) -> list[str]:
    """The compiled backends that run here."""
    return [b for b in ("cpu", "cuda", "triton") if not registry.why_not(op, b, device.type)]


def mixed_sum_steps(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, compiled: bool
) -> dict[str, Step]:
    """Forward and backward of ten inputs; three sets of buffers in turn."""

    def buffers() -> tuple[list[Tensor], Tensor, Tensor]:
        def tensor() -> Tensor:
            return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

        return [tensor().requires_grad_() for _ in range(10)], torch.rand(10, device=device).requires_grad_(), tensor()

    sets = itertools.cycle([buffers() for _ in range(3)])

    def step(mix: Callable[..., Tensor]) -> Step:
        def run() -> None:
            xs, weights, grad = next(sets)
            torch.autograd.grad(mix(xs, weights), (*xs, weights), grad)

        return run

    def eager(xs: list[Tensor], weights: Tensor) -> Tensor:
        return eager_mixed_sum(xs, weights.to(dtype))

    steps = {name: on(name, step(ops.mixed_sum)) for name in backends("mixed_sum", device)}
    steps["eager"] = step(eager)
    if compiled:
        steps["compile"] = step(torch.compile(eager))
    return steps


def arch_weights_steps(layers: int, device: torch.device) -> dict[str, Step]:
    """Forward and backward for all layers."""
    logits = torch.randn(layers, 10, device=device, requires_grad=True)
    grad = torch.randn(layers, 10, device=device)

    def ours() -> None:
        torch.autograd.grad(ops.arch_weights(logits, 1.0, boost=ops.Boost()).weights, logits, grad)

    def eager() -> None:
        torch.autograd.grad(torch.stack(eager_arch_weights(logits.unbind(), 1.0)), logits, grad)

    return {**{name: on(name, ours) for name in backends("arch_weights", device)}, "eager": eager}


def copy_bandwidth(device: torch.device, megabytes: int) -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.randn(megabytes * 250_000, device=device)
    target = torch.empty_like(source)
    seconds = medians({"copy": lambda: target.copy_(source)}, device, 20)["copy"]["median"]
    return 2 * source.numel() * source.element_size() / seconds


def main() -> None:
    """Prints a table and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dry = device.type == "cpu"
    rounds = 3 if dry else 50
    bandwidth = copy_bandwidth(device, 16 if dry else 4000)
    figures: dict[str, Any] = {"info": info.collect(), "copy_bandwidth": bandwidth, "rows": []}
    print(f"copy {bandwidth / 1e9:.0f} GB/s")

    def row(name: str, steps: dict[str, Step], moved: int = 0) -> None:
        found = medians(steps, device, rounds)
        figures["rows"].append({"name": name, "bytes": moved, "seconds": found})
        for variant, seconds in found.items():
            fraction = f"  {moved / seconds['median'] / bandwidth:5.2f} of copy" if moved else ""
            print(f"{name:45s} {variant:10s} {seconds['median'] * 1e6:10.1f} us{fraction}")

    shapes = [(2, 8, 8, 8)] if dry else [(256, 64, 32, 32), (128, 16, 32, 32), (128, 64, 16, 16)]
    for shape, dtype in itertools.product(shapes, (torch.float32, torch.bfloat16)):
        elements = torch.Size(shape).numel()
        moved = 32 * elements * torch.empty(0, dtype=dtype).element_size()
        row(f"mixed_sum fwd+bwd {shape} {dtype}", mixed_sum_steps(shape, dtype, device, not dry), moved)
    for layers in (6, 20):
        row(f"arch_weights fwd+bwd L={layers}", arch_weights_steps(layers, device))
    with open(arguments.out, "w") as file:
        json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
