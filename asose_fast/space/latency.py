"""Networks take this long on a device: measured for one, and for every candidate in its place."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.config import LatencyConfig
from asose_fast.space.build import ImageNetwork, Spec, build
from asose_fast.space.cells import CellNetworkSpec
from asose_fast.space.network import Network, NetworkSpec
from asose_fast.space.prune import identity

WARM_UP = 3
REPEATS = 30
"""A network is timed so often, after `WARM_UP` runs that are not."""


class Target(NamedTuple):
    """A network is to be fast here."""

    device: str = "cpu"
    threads: int = 1
    """Of the CPU; a GPU has no use for more."""
    batch: int = 1
    """So many images are classified at a time."""

    @staticmethod
    def of(config: LatencyConfig) -> Target:
        """Returns where latencies are measured by these settings."""
        return Target(config.latency_device, config.latency_threads, config.latency_batch)

    @property
    def unusable(self) -> str | None:
        """Says why nothing can be timed there on this machine; None where it can."""
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            return f"latency_device {self.device!r} cannot be used here: {str(error).splitlines()[0]}"
        return None

    @property
    def words(self) -> str:
        """Says where."""
        images, threads = ("image" if self.batch == 1 else "images"), ("thread" if self.threads == 1 else "threads")
        return f"{self.batch} {images}, {self.device}" + (f", {self.threads} {threads}" if self.device == "cpu" else "")


class Timing(NamedTuple):
    """Quantiles of repeated runs, in nanoseconds."""

    low: int
    """The first decile: what it takes where nothing else runs. This is the latency."""
    median: int
    high: int
    """The last decile."""

    @staticmethod
    def of(times: Sequence[int]) -> Timing:
        """Of runs, at least two."""
        deciles = statistics.quantiles(times, n=10, method="inclusive")
        return Timing(*(round(deciles[i]) for i in (0, 4, 8)))


class Latencies(NamedTuple):
    """The latency of every network that can be derived is about `rest` and, for every row of alpha, that of the
    candidate that it takes."""

    rows: tuple[tuple[Timing, ...], ...]
    """L of K."""
    rest: Timing

    def table(self) -> Tensor:
        """int64 (L, K), nanoseconds."""
        return torch.tensor([[timing.low for timing in row] for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists of numbers."""
        return {"rows": [[list(timing) for timing in row] for row in self.rows], "rest": list(self.rest)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Latencies:
        """Inverts `to_dict`."""
        rows = tuple(tuple(Timing(*timing) for timing in row) for row in values["rows"])
        return Latencies(rows, Timing(*values["rest"]))


def network_latency(spec: Spec, image_size: int, target: Target) -> Timing:
    """Times the forward pass of a derived network in evaluation mode, as `asose_fast.load` gives it. Weights are fresh.

    On one thread of a CPU it is the time of that thread, so that other processes hardly show. Raises ValueError for a
    device that is not there.
    """
    with running(target):
        return Timing.of([total for total, _ in runs(*_prepared(build(spec), image_size, target), [], target)])


def candidate_latencies(spec: Spec, image_size: int, target: Target) -> Latencies:
    """Times every candidate where it would run, in the network that has it in all rows, with fresh weights.

    In chain and stages a row is its block, whose latency is 0 where the block would be left out. In NAS-Bench-201 it is
    an edge in all cells together. What a network takes besides has its median over these networks.

    Raises ValueError for the space of DARTS, whose costs are no sums over rows, and as `network_latency`.
    """
    if isinstance(spec, CellNetworkSpec) and spec.kind != "nasbench201":
        raise ValueError(f"latencies of the space {spec.kind} are no sums over rows of alpha")
    with running(target):
        network = build(spec)
        columns, rests = [], []
        for k in range(len(_candidates(spec))):
            derived = network.derive([k] * spec.rows)
            rows, rest = timings(*_prepared(derived, image_size, target), _rows(derived), target)
            columns.append([_block(derived, i, timing) for i, timing in enumerate(rows)])
            rests.append(rest)
    return Latencies(tuple(zip(*columns, strict=True)), middle(rests))


def middle(found: Sequence[Timing]) -> Timing:
    """The medians."""
    return Timing(*(round(statistics.median(values)) for values in zip(*found, strict=True)))


def timings(
    network: nn.Module, x: Any, rows: Sequence[Sequence[nn.Module]], target: Target
) -> tuple[list[Timing], Timing]:
    """What the modules of every row take in `network(x)`, and what the rest takes."""
    found = list(runs(network, x, rows, target))
    rests = [total - sum(parts) for total, parts in found]
    return [Timing.of([parts[i] for _, parts in found]) for i in range(len(rows))], Timing.of(rests)


def _candidates(spec: Spec) -> tuple[str, ...]:
    return spec.blocks[0].candidates if isinstance(spec, NetworkSpec) else spec.normal[0].candidates


def _rows(network: ImageNetwork) -> list[list[nn.Module]]:
    """What runs for every row of alpha in a derived network."""
    if isinstance(network, Network):
        return [[block] for block in network.evolvable_blocks()]
    edges = zip(*(cell.mixed_edges() for cell in network.mixed_cells()), strict=True)
    return [list(ops) for ops in edges]


def _block(network: ImageNetwork, row: int, timing: Timing) -> Timing:
    if isinstance(network, Network) and identity(network.evolvable_blocks()[row].spec):
        return Timing(0, 0, 0)
    return timing


def _prepared(network: ImageNetwork, image_size: int, target: Target) -> tuple[nn.Module, Tensor]:
    """The network on the device, and a batch for it."""
    placed = network.to(target.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(target.batch, network.spec.in_channels, image_size, image_size)
    return placed, x.to(target.device, memory_format=torch.channels_last)


@contextmanager
def running(target: Target) -> Iterator[None]:
    """Evaluation without gradients, on so many threads, whose random numbers nobody else misses."""
    if reason := target.unusable:
        raise ValueError(reason)
    threads = torch.get_num_threads()
    torch.set_num_threads(target.threads)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def runs(
    network: nn.Module, x: Any, rows: Sequence[Sequence[nn.Module]], target: Target
) -> Iterator[tuple[int, list[int]]]:
    """The nanoseconds of repeated forward passes in evaluation mode, each with those of all rows."""
    network.eval()
    clock, parts = _clock(target), [0] * len(rows)
    began = 0

    def enter(*_: object) -> None:
        nonlocal began
        began = clock()

    def leave(row: int) -> Callable[..., None]:
        def stop(*_: object) -> None:
            parts[row] += clock() - began

        return stop

    with ExitStack() as held:
        for row, modules in enumerate(rows):
            for module in modules:
                held.callback(module.register_forward_pre_hook(enter).remove)
                held.callback(module.register_forward_hook(leave(row)).remove)
        for i in range(-WARM_UP, REPEATS):
            parts[:] = [0] * len(rows)
            start = clock()
            network(x)
            total = clock() - start
            if i >= 0:
                yield total, list(parts)


def _clock(target: Target) -> Callable[[], int]:
    if target.device == "cpu":
        return time.thread_time_ns if target.threads == 1 else time.perf_counter_ns

    def after_the_gpu() -> int:
        torch.cuda.synchronize(target.device)
        return time.perf_counter_ns()

    return after_the_gpu
