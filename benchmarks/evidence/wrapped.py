"""What does half of a model of torchvision come to? `python -m benchmarks.evidence.wrapped --data imagefolder:PATH ...`

Each model begins with random weights, and again with those that it was then trained to. Three networks are trained from
there for as many epochs: the model itself, the one that a search finds within a share of its FLOPs, and the one that
the initial logits give within that share. All use the same images and SGD. Each network is exported and measured on the
test images, once. A model whose space does not begin as the model itself, to the bit, is an error.
"""

from __future__ import annotations

import argparse
import copy
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import asose_fast
from asose_fast.config import Config
from asose_fast.data import Data, Split, load_data
from asose_fast.data.torchvision_compat import import_torchvision
from asose_fast.space.custom import CustomNetwork
from benchmarks.evidence.report import Table, changes, summary, write
from benchmarks.evidence.training import CPU

SURE = 100.0
"""With this logit, the originals are what is derived."""
ORIGINAL, SEARCHED, CHEAPENED = "original", "searched", "not searched"


class Half(NamedTuple):
    """A network and what it comes to."""

    model: str
    begins_with: str
    network: str
    seed: int
    flops: int
    parameters: int
    test_accuracy: float
    seconds: float
    """Of processor time, of one thread, to its end."""


class Epochs:
    """A split as a loader: each pass is a further epoch."""

    def __init__(self, split: Split, augment: bool) -> None:
        self.split, self.augment, self.epoch = split, augment, 0

    def __len__(self) -> int:
        return self.split.num_batches()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        return self.split.batches(self.epoch, augment=self.augment)


def options_of(name: str) -> dict[str, Any]:
    """Where 3x3 convolutions have little of the FLOPs, `wrap` is to take the others too."""
    return {} if name.startswith(("resnet", "vgg")) else {"only": "*"}


def require_same(model: nn.Module, space: nn.Module, x: Tensor) -> None:
    """Raises ValueError where the space, on the path of the originals, does not give what the model gives, to the
    bit."""
    network = CustomNetwork(copy.deepcopy(space))
    path = [columns[0] for columns in network.columns]
    for training in (False, True):
        torch.manual_seed(0)  # of a dropout
        expected = copy.deepcopy(model).train(training)(x)
        torch.manual_seed(0)
        if not torch.equal(network.train(training)(x, path=path), expected):
            raise ValueError(f"the space does not begin as the model, in {'training' if training else 'evaluation'}")


def exported(network: nn.Module, x: Tensor) -> nn.Module:
    """The network, written by torch.export and read again. Raises ValueError where it gives something else."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(network, (x,)), file)
    file.seek(0)
    again = torch.export.load(file).module()
    if not torch.allclose(again(x), network(x), rtol=1e-4, atol=1e-4):
        raise ValueError("the exported network gives something else")
    return again


def phases(network: str, epochs: int) -> list[asose_fast.PhaseSpec]:
    """A search takes three tenths of the epochs, and the training of what is derived takes the others."""
    searching = max(1, 3 * epochs // 10) if network == SEARCHED else 0
    optimize = asose_fast.PhaseSpec("optimize", epochs - searching, updates="weights", architecture="derived")
    return [*([asose_fast.PhaseSpec("search", searching, boost=True)] if searching else []), optimize]


def train(
    model: nn.Module, network: str, data: Data, config: Config, options: dict[str, Any], epochs: int, share: float
) -> tuple[nn.Module, float, float]:
    """Trains one of the three networks. Returns it, its test accuracy, and the seconds of processor time."""
    torch.manual_seed(config.seed)
    example = (1, data.channels, data.image_size, data.image_size)
    flops = asose_fast.wrappable(model, example, **options).flops
    whole = network == ORIGINAL
    space = asose_fast.wrap(model, example, **options, original_logit=SURE if whole else 2.0)
    bound = None if whole else int(share * flops)
    splits = [Epochs(data.train, config.augment), Epochs(data.valid, False), Epochs(data.test, False)]
    settings = Config(derive_max_flops=bound, learning_rate=config.learning_rate, seed=config.seed, device="cpu")
    began = time.process_time()
    found = asose_fast.search(space, splits, settings, phases=phases(network, epochs), observers=())
    seconds = time.process_time() - began
    size = asose_fast.wrappable(found.network, example, **options).flops
    if bound is not None and size > bound:
        raise ValueError(f"the network has {size:,} FLOPs, and may have {bound:,}")
    exported(found.network, next(iter(splits[2]))[0][:1])
    assert found.test_score is not None  # there are test images
    return found.network, found.test_score, seconds


def halves(name: str, model: nn.Module, data: Data, config: Config, epochs: int, share: float) -> Iterator[Half]:
    """The networks of a model, first from its weights as they are, then from those that it was trained to."""
    options = options_of(name)
    example = (1, data.channels, data.image_size, data.image_size)
    space = asose_fast.wrap(model, example, **options)
    require_same(model, space, next(iter(data.train.batches(0)))[0])
    for weights in ("random", "trained"):
        begin = model
        for network in (ORIGINAL, SEARCHED, CHEAPENED):
            trained, accuracy, seconds = train(begin, network, data, config, options, epochs, share)
            told = asose_fast.wrappable(trained, example, **options)
            yield Half(name, weights, network, config.seed, told.flops, told.parameters, accuracy, seconds)
            if network == ORIGINAL:
                model = trained


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.wrapped", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
    parser.add_argument("--epochs", type=int, default=10, help="of each network, in all")
    parser.add_argument("--share", type=float, default=0.5, help="of the model's FLOPs, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config, of the images")
    parser.add_argument("--out", type=Path, help="JSON file to write after each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("model", "begins with", "network", "seed", "FLOPs", "parameters", "test accuracy", "seconds")
    done: list[Half] = []
    for name in options.models:
        for seed in options.seeds:
            config = Config(**{"learning_rate": 0.05, **changes(options.set), "dataset": options.data, "seed": seed})
            data = load_data(config, config.batch_size, seed, CPU)
            torch.manual_seed(seed)
            model = getattr(import_torchvision().models, name)(num_classes=len(data.classes))
            whole = 0
            for one in halves(name, model, data, config, options.epochs, options.share):
                whole = whole or one.flops
                done.append(one)
                said = (f"{one.flops / whole:.1%}", f"{one.parameters:,}", f"{one.test_accuracy:.1%}")
                table.row(name, one.begins_with, one.network, seed, *said, f"{one.seconds:.0f}")
                write(options.out, {**summary(options), "networks": [each._asdict() for each in done]})


if __name__ == "__main__":
    main()
