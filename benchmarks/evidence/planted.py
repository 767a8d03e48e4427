"""Does the search find what is there? `python -m benchmarks.evidence.planted [--seeds 5] [--weights given] [--set ...]`

A supernet with random weights is drawn, and in it a path: one operation a layer, any but `none`. The network of this
path, the teacher, labels synthetic images, of which those are kept that it is surest of. The search is given the
supernet, with all logits as a run begins, and the images with their labels; what counts is in how many layers the most
probable operation is the planted one at the end. Choosing at random finds 1 of 10.

With `--weights given` the weights stay as they were drawn, so that only the architecture is learned and the planted
path is the best one by construction. With `trained` they start there and are trained as in any run, with `scratch` they
are initialised and trained: other operations may then learn to imitate the planted ones, and where they do, no label
tells which they were (`benchmarks.evidence.identifiable`).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import random
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.data.pool import MemoryPool
from asose_fast.data.split import Split
from asose_fast.data.transform import Transform
from asose_fast.engine.evaluate import recalibrate
from asose_fast.engine.trainer import Trainer
from asose_fast.space import Network, NetworkSpec
from benchmarks.evidence import faults
from benchmarks.evidence.report import Table, changes, summary, write

CPU = torch.device("cpu")
SIZE, CLASSES, IMAGES = 16, 10, 2000
"""Pixels, labels, and the images of the training and of the validation split each."""
SURENESS = 4
"""So many images are drawn for one that is kept."""
WEIGHTS = {"learning_rate": 0.0, "learning_rate_min": 0.0, "weight_decay": 0.0}
"""Settings that leave the weights as they are."""
SEARCH = {
    "channels": 8,
    "depth": 6,
    "warmup_epochs": 1,
    "search_epochs": 11,
    "growth_epochs": 14,
    "growth_patience": 100,
    "optimize_epochs": 1,
    "alpha_every": 2,
    "augment": False,
    "threads": 1,
}
"""The run, 800 alpha steps, without growth. Every second batch is one of alpha's: there is nothing else to learn."""

Given = Literal["given", "trained", "scratch"]


@dataclasses.dataclass(frozen=True)
class Task:
    """The supernet that holds the teacher, its planted path and the labelled images."""

    supernet: Network
    path: list[int]
    data: Data


def make_task(config: Config, seed: int, images: int = IMAGES) -> Task:
    """The task of `seed`, which draws weights, path and images. Any number of layers and candidates."""
    generator = torch.Generator().manual_seed(seed)
    supernet = Network(NetworkSpec.chain(config, 3, CLASSES))
    _draw_weights(supernet, generator)
    choice = random.Random(seed)
    names = [block.candidates for block in supernet.spec.blocks]
    path = [choice.choice([k for k, name in enumerate(row) if name != "none"]) for row in names]
    teacher = copy.deepcopy(supernet).derive(path)

    count = 2 * images + CLASSES * 50
    pixels = _textures(SURENESS * count, generator)
    values = pixels[:images].float() / 255
    mean, std = (tuple(stat.tolist()) for stat in (values.mean((0, 1, 2)), values.std((0, 1, 2))))
    x = ((pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    scores = _scores(teacher, x)
    _even_out(supernet.head[-1], scores)
    kept, labels = _surest((scores - scores.mean(0)) / scores.std(0), count, generator)

    pool = MemoryPool(pixels[kept], labels)
    transform = Transform.normalising(mean, std, 1, False, CPU)
    train, valid, test = (
        Split(
            name,
            pool,
            numbers,
            transform,
            batch_size=config.batch_size,
            seed=seed,
            shuffle=name == "train",
            augment=False,
        )
        for name, numbers in zip(
            ("train", "valid", "test"), torch.arange(len(kept)).tensor_split([images, 2 * images]), strict=True
        )
    )
    data = Data(
        train, valid, test, tuple(f"teacher's {c}" for c in range(CLASSES)), 3, SIZE, mean, std, f"planted {seed}"
    )
    return Task(supernet, path, data)


@torch.no_grad()
def _draw_weights(network: Network, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)


def _textures(count: int, generator: torch.Generator) -> Tensor:
    """uint8 (N, H, W, 3). Each has two coloured stripe patterns of random direction and period (noise through a narrow
    filter), a background colour and a little noise, so that what a filter of any size answers differs between them.
    """

    def draw(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    frequency = torch.fft.fftfreq(SIZE)
    image = 0.5 * draw(3, 1, 1) + 0.3 * draw(3, SIZE, SIZE)
    for _ in range(2):
        angle = math.pi * torch.rand(count, 1, 1, generator=generator)
        radius = 0.45 * torch.rand(count, 1, 1, generator=generator)
        down, right = radius * angle.sin(), radius * angle.cos()
        gain = torch.zeros(count, SIZE, SIZE)
        for sign in (1, -1):
            distance = (frequency[:, None] - sign * down) ** 2 + (frequency - sign * right) ** 2
            gain += torch.exp(-distance / (2 * 0.06**2))
        pattern = torch.fft.ifft2(torch.fft.fft2(draw(SIZE, SIZE)) * gain).real
        pattern /= pattern.flatten(1).std(1)[:, None, None]
        image += draw(3, 1, 1) * pattern[:, None]
    return (40 * image + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def _scores(teacher: Network, x: Tensor) -> Tensor:
    batches = [(part.contiguous(memory_format=torch.channels_last), part) for part in x.split(256)]
    recalibrate(teacher, batches, 8)
    teacher.eval()
    return torch.cat([teacher(part) for part, _ in batches])


@torch.no_grad()
def _even_out(classifier: nn.Linear, scores: Tensor) -> None:
    """Has every class score 0 on average with standard deviation 1, so that each is given to about as many images."""
    classifier.weight.div_(scores.std(0)[:, None])
    classifier.bias.sub_(scores.mean(0)).div_(scores.std(0))


def _surest(scores: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As many images of every class as there are to be in all, those that lead by most, shuffled; and their labels."""
    best = scores.topk(2)
    lead, labels = best.values[:, 0] - best.values[:, 1], best.indices[:, 0]
    chosen = []
    for label in range(CLASSES):
        members = torch.nonzero(labels == label).flatten()
        chosen.append(members[lead[members].argsort(descending=True)[: count // CLASSES]])
    kept = torch.cat(chosen)
    kept = kept[torch.randperm(len(kept), generator=generator)]
    return kept, labels[kept]


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What a search made of a task."""

    seed: int
    layers: int
    recovered: int
    planted: list[str]
    found: list[str]
    entropy: float
    max_weight: float
    seconds: float


def recover(
    seed: int, weights: Given = "given", images: int = IMAGES, search: faults.Search = faults.sound, **settings: Any
) -> Recovery:
    """Searches the task of `seed`, with `settings` of Config changed."""
    fixed = WEIGHTS if weights == "given" else {"warmup_epochs": 4}
    config = Config(**{**SEARCH, **fixed, "seed": seed, **settings})
    task = make_task(config, seed, images)
    state = search(config, task.data)
    if weights != "scratch":
        state.network.load_state_dict(task.supernet.state_dict())
    Trainer(state).run()
    found = state.selector.best_path()
    last = next(record for record in reversed(state.history) if record["phase"] == "growth")
    return Recovery(
        seed,
        len(found),
        sum(a == b for a, b in zip(found, task.path, strict=True)),
        [config.candidates[k] for k in task.path],
        [config.candidates[k] for k in found],
        last["entropy"],
        last["max_weight"],
        sum(record["seconds"] for record in state.history),
    )


def share(runs: list[Recovery]) -> float:
    """Of all layers, those in which the planted operation was found."""
    return sum(run.recovered for run in runs) / sum(run.layers for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.planted", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weights", choices=["given", "trained", "scratch"], default="given")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs, table = [], Table("seed", "recovered", "entropy", "max weight", "seconds", "found (planted where it differs)")
    for seed in range(options.seeds):
        run = recover(seed, options.weights, **changes(options.set))
        runs.append(run)
        found = [f if f == p else f"{f} ({p})" for f, p in zip(run.found, run.planted, strict=True)]
        table.row(
            seed,
            f"{run.recovered} of {run.layers}",
            f"{run.entropy:.2f}",
            f"{run.max_weight:.2f}",
            f"{run.seconds:.0f}",
            ", ".join(found),
        )
    print(f"recovered {share(runs):.0%} of {sum(run.layers for run in runs)} planted operations; at random 10%")
    write(options.out, {**summary(options), "share": share(runs), "runs": [dataclasses.asdict(run) for run in runs]})


if __name__ == "__main__":
    main()
