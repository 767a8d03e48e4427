"""Beside the reference implementation of DARTS, on the same work: `python -m benchmarks.peers PATH [--batch 16]`

PATH is a checkout of github.com/quark0/darts. Both search the space of DARTS at first order on the same images from the
same weights: an alpha step, then a weight step, both of the soft mixture. First the losses and gradients are compared,
then the times, interleaved in this process, then the peaks of memory, each in a process of its own. "ours, sampled" is
the same network under straight-through sampling, our default, which is another algorithm: its weight steps run one
candidate an edge.

Their code is imported as it is, for a CPU and the PyTorch of today, with these changes in this process alone: `.cuda()`
of tensors and modules returns them as they are; train_search.py, which is no Python since 3.7 (`async`), is not
imported, and the body of its loop is `Theirs.step`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from asose_fast.config import SpaceConfig
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.ops import arch_weights
from asose_fast.space.cells import CellNetwork, CellNetworkSpec
from asose_fast.training_config import OptimizerConfig
from benchmarks import record
from benchmarks.measure import Duration, Size, interleaved, ratio
from benchmarks.memory import peak_in_fresh_process
from benchmarks.steps import LAYOUTS

CLIP = 5.0
ALPHA_RATE, ALPHA_DECAY = 3e-4, 1e-3
EPOCHS, IMAGES = 50, 25_000
"""Of a search in the paper: half of CIFAR-10's training images for the weights, the other half for alpha."""


@contextlib.contextmanager
def their_modules(path: Path) -> Iterator[Any]:
    """Their `model_search` and `architect`, on a CPU."""

    def here(self: Any, *arguments: object, **options: object) -> Any:
        return self

    with (
        mock.patch.object(sys, "path", [str(path / "cnn"), *sys.path]),
        mock.patch.object(Tensor, "cuda", here),
        mock.patch.object(nn.Module, "cuda", here),
    ):
        import architect
        import model_search

        yield SimpleNamespace(Network=model_search.Network, Architect=architect.Architect)


class Theirs:
    """A step of theirs; only its images may be laid out otherwise."""

    def __init__(self, path: Path, layout: str, images: Tensor, labels: Tensor, channels: int, cells: int) -> None:
        self.path, self.criterion = path, nn.CrossEntropyLoss()
        torch.manual_seed(0)
        with their_modules(path) as modules:
            network = modules.Network(channels, 10, cells, self.criterion)
            self.network = network.to(memory_format=LAYOUTS[layout])
            settings = SimpleNamespace(
                momentum=0.9, weight_decay=3e-4, arch_learning_rate=ALPHA_RATE, arch_weight_decay=ALPHA_DECAY
            )
            self.architect = modules.Architect(self.network, settings)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        self.x, self.y = images.contiguous(memory_format=LAYOUTS[layout]), labels

    def step(self) -> None:
        """What the loop of train_search.py does with a batch for each."""
        self.architect.step(self.x, self.y, self.x, self.y, 0.025, self.optimizer, unrolled=False)
        self.optimizer.zero_grad()
        loss = self.criterion(self.network(self.x), self.y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()

    def gradients(self) -> tuple[Tensor, Tensor]:
        """The loss and alpha's gradient."""
        loss = self.network._loss(self.x, self.y)
        return loss.detach(), torch.cat(torch.autograd.grad(loss, self.network.arch_parameters()))


class Ours:
    """The same step on our network, with their weights and alpha, or that of sampled paths."""

    def __init__(self, theirs: Theirs, channels: int, cells: int, *, sampled: bool = False) -> None:
        space = SpaceConfig(space="darts", channels=channels, cells=cells)
        network = CellNetwork(CellNetworkSpec.supernet(space, 3, 10))
        load(theirs.network, network)
        self.network, self.sampled = network.to(memory_format=torch.channels_last), sampled
        self.x, self.y = theirs.x.contiguous(memory_format=torch.channels_last), theirs.y
        self.alpha = torch.cat([a.detach() for a in theirs.network.arch_parameters()]).requires_grad_()
        self.weights = weight_optimizer(OptimizerConfig(learning_rate=0.025), self.network)
        self.architecture = alpha_optimizer([self.alpha], ALPHA_RATE)
        self.architecture.param_groups[0]["weight_decay"] = ALPHA_DECAY

    def step(self) -> None:
        """An alpha step and a weight step."""
        if self.sampled:
            drawn = arch_weights(self.alpha, 1.0)
            draw = Draw(drawn.weights, drawn.index.tolist())
            alpha_step(self.network, self.architecture, self.x, self.y, draw)
            path = arch_weights(self.alpha, 1.0).index.tolist()
            weight_step(self.network, self.weights, self.x, self.y, path, clip=CLIP)
            return
        alpha_step(self.network, self.architecture, self.x, self.y, Draw(self.alpha.softmax(1), None))
        mixture = self.alpha.detach().softmax(1)
        weight_step(self.network, self.weights, self.x, self.y, None, mixture=mixture, clip=CLIP)

    def gradients(self) -> tuple[Tensor, Tensor]:
        loss = nn.functional.cross_entropy(self.network(self.x, self.alpha.softmax(1)), self.y)
        return loss.detach(), torch.autograd.grad(loss, self.alpha)[0]


def load(theirs: nn.Module, ours: CellNetwork) -> None:
    """Copies every weight of theirs into ours. Raises ValueError where the networks differ."""
    pairs = [(theirs.stem, ours.stem), (theirs.classifier, ours.head[-1])]
    for cell, mine in zip(theirs.cells, ours.cells, strict=True):
        pairs += [(cell.preprocess0, mine.before), (cell.preprocess1, mine.last)]
        for edge, op in zip(cell._ops, mine.ops, strict=True):
            pairs += zip(edge._ops, op.ops.values(), strict=True)
    copied = 0
    with torch.no_grad():
        for source, target in pairs:
            for a, b in zip(source.parameters(), target.parameters(), strict=True):
                if a.shape != b.shape:
                    raise ValueError(f"{source} has a parameter of {tuple(a.shape)}, {target} one of {tuple(b.shape)}")
                b.copy_(a)
                copied += a.numel()
    if copied != sum(p.numel() for p in theirs.parameters()) or copied != sum(p.numel() for p in ours.parameters()):
        raise ValueError("the networks do not have the same parameters")


VARIANTS = {
    "theirs, NCHW": ("nchw", None),
    "theirs, channels_last": ("nhwc", None),
    "ours": ("nhwc", False),
    "ours, sampled": ("nhwc", True),
}


def make(name: str, path: Path, batch: int, channels: int, cells: int) -> Theirs | Ours:
    """A variant, from the seed that all have."""
    layout, sampled = VARIANTS[name]
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    theirs = Theirs(path, layout, images, labels, channels, cells)
    return theirs if sampled is None else Ours(theirs, channels, cells, sampled=sampled)


def prepare(*arguments: Any) -> Any:
    """A step for `peak_in_fresh_process`, after one that gives momentum its memory."""
    variant = make(*arguments)
    variant.step()
    return variant.step


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="F", default=record.ROOT / ".benchmarks" / "peers.jsonl")
    options = parser.parse_args()
    if not (options.path / "cnn" / "model_search.py").exists():
        parser.error(f"{options.path} is no checkout of quark0/darts: it has no cnn/model_search.py")
    size = options.path.resolve(), options.batch, options.channels, options.cells
    row = f"DARTS, {options.cells} cells, C={options.channels}, batch {options.batch}, alpha and weight step"
    rows: list[tuple[str, object]] = []

    def report(name: str, value: object) -> None:
        rows.append((name, value))
        print(f"{name:90s} {value}", flush=True)

    variants = {name: make(name, *size) for name in VARIANTS}
    loss, gradient = variants["theirs, NCHW"].gradients()
    mine, own = variants["ours"].gradients()
    report(f"{row}: loss, theirs and ours", f"{loss:.6f} {mine:.6f}")
    difference = ((gradient - own).norm() / gradient.norm()).item()
    report(f"{row}: difference of alpha's gradients, of their norm", f"{difference:.1e}")
    if abs(loss - mine) > 1e-3 * abs(loss) or difference > 0.02:
        print("not the same work: nothing is timed", file=sys.stderr)
        return 1
    times = interleaved({name: variant.step for name, variant in variants.items()}, options.rounds, 1)
    for name in VARIANTS:
        seconds = statistics.median(times[name])
        report(f"{row}, {name}", Duration(seconds))
        # Every step sees a batch for alpha and one for the weights, an epoch every image of either half once.
        report(f"{row}, {name}: images/s", f"{2 * options.batch / seconds:.1f}")
        report(f"{row}, {name}: {EPOCHS} epochs", f"{EPOCHS * IMAGES / options.batch * seconds / 3600:.1f} h")
        if name.startswith("theirs"):
            report(f"{row} / {name}", ratio(times[name], times["ours"]))
            report(f"{row}, sampled / {name}", ratio(times[name], times["ours, sampled"]))
    for name in VARIANTS:
        peak = peak_in_fresh_process(prepare, name, *size, pool=False)
        report(f"{row}, {name}: peak, live tensors", Size(peak.tensors))
        report(f"{row}, {name}: peak, resident", Size(peak.resident))
    record.append(options.json, [record.row_of(*line) for line in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
