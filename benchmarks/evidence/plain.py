"""What do plain networks reach on the same images? `python -m benchmarks.evidence.plain --data imagefolder:PATH ...`

Trains a convolutional network of four layers and a small ResNet for the seconds given, and a logistic regression on
pixels, each as anyone would write it in ten minutes, and measures them on the test images. `--runs` puts finished runs
of the search beside them, with the seconds of all their epochs. A search is worth its time where it is ahead of the
best plain network of no more seconds and parameters.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast.config import Config
from asose_fast.data import Data, Split, load_data
from asose_fast.engine.evaluate import accuracy
from benchmarks.evidence.report import Table, changes, summary, write
from benchmarks.evidence.training import CPU

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 3e-4


class Trained(NamedTuple):
    """A network and what it comes to."""

    name: str
    seed: int
    seconds: float
    """Of processor time in training, of one thread; of a run, of its epochs by the clock."""
    parameters: int
    test_accuracy: float


class Residual(nn.Module):
    """ReLU(x + two convolutions of x); where the shape changes, x goes through a 1x1 convolution (arXiv 1512.03385)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        stride = 1 if channels == out_channels else 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes (N, channels, H, W) -> (N, out_channels, H', W'), H' = H or ceil(H / 2)."""
        return F.relu(self.shortcut(x) + self.body(x))


def four_layers(channels: int, classes: int, width: int = 32) -> nn.Module:
    """Convolution, norm, ReLU four times, with `width`, twice and four times as many channels, maxima of 2x2 after the
    first three."""
    layers: list[nn.Module] = []
    widths = (channels, width, 2 * width, 4 * width, 4 * width)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)] if i < 3 else []
    return nn.Sequential(*layers, *_head(widths[-1], classes))


def small_resnet(channels: int, classes: int) -> nn.Module:
    """The ResNet of CIFAR with one block in each of its three stages, of 16, 32 and 64 channels."""
    stem = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, Residual(16, 16), Residual(16, 32), Residual(32, 64), *_head(64, classes))


def _head(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"four layers": four_layers, "small ResNet": small_resnet}


def networks(width: int) -> dict[str, Callable[[int, int], nn.Module]]:
    """Returns those of `NETWORKS`, and that of four layers in another width."""
    wider = {} if width == 32 else {f"four layers of {width}": functools.partial(four_layers, width=width)}
    return {**NETWORKS, **wider}


def train(name: str, make: Callable[[int, int], nn.Module], data: Data, config: Config, seconds: float) -> Trained:
    """Trains on the training and the validation images, which a network without a search has no other use for.

    SGD with Nesterov's momentum; the learning rate falls along a cosine, by the share of `seconds` that is spent.
    """
    torch.manual_seed(config.seed)
    network = make(data.channels, len(data.classes)).to(CPU, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    images, epoch, began = data.train.joined(data.valid), 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        for x, y in images.batches(epoch, augment=config.augment):
            spent = min(seconds, time.process_time() - began)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * spent / seconds)) / 2
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            if spent >= seconds:
                break
        epoch += 1
    parameters = sum(p.numel() for p in network.parameters())
    return Trained(name, config.seed, spent, parameters, accuracy(network, data.test.batches(0)))


def logistic(data: Data, config: Config) -> Trained:
    """Trains a logistic regression on normalised pixels, to its end."""
    (x, y), (tx, ty) = (_whole(split) for split in (data.train.joined(data.valid), data.test))
    began = time.process_time()
    model = LogisticRegression(C=0.01, max_iter=200).fit(x, y)
    seconds = time.process_time() - began
    return Trained(
        "logistic regression",
        config.seed,
        seconds,
        model.coef_.size + model.intercept_.size,
        float(model.score(tx, ty)),
    )


def _whole(split: Split) -> tuple[Any, Any]:
    batches = list(split.batches(0, shuffle=False, augment=False))
    return tuple(
        torch.cat(part).flatten(1 if i == 0 else 0).numpy() for i, part in enumerate(zip(*batches, strict=True))
    )


def searched(run: Path) -> Trained:
    """What a finished run of the search came to. Raises FileNotFoundError for one that has not ended."""
    found = json.loads((run / "summary.json").read_text())
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seed = yaml.safe_load((run / "config.yaml").read_text())["seed"]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    return Trained(f"search {run.name}", seed, seconds, found["parameters"], found["test_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.plain", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--seconds", type=float, nargs="+", default=[120.0], help="of training, of one thread")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=32, help="channels of a network of four layers, beside 32")
    parser.add_argument("--networks", nargs="*", default=[], metavar="NAME", help="train these alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="finished runs of the search, to compare")
    parser.add_argument("--out", type=Path, help="JSON file to write after each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "seed", "seconds", "parameters", "test accuracy")
    done: list[Trained] = []

    def tell(one: Trained) -> None:
        done.append(one)
        table.row(one.name, one.seed, f"{one.seconds:.0f}", f"{one.parameters:,}", f"{one.test_accuracy:.2%}")
        write(options.out, {**summary(options), "trained": [found._asdict() for found in done]})

    for run in options.runs:
        tell(searched(run))
    for seed in options.seeds:
        config = Config(**{**changes(options.set), "dataset": options.data, "seed": seed})
        data = load_data(config, config.batch_size, config.seed, CPU)
        if not seed and not options.networks:
            tell(logistic(data, config))
        for seconds in options.seconds:
            for name, make in networks(options.width).items():
                if name in options.networks or not options.networks:
                    tell(train(name, make, data, config, seconds))


if __name__ == "__main__":
    main()
