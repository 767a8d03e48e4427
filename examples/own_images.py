"""A search in a network of your own on a folder of images: PATH/train/<class>/ and PATH/test/<class>/.

python examples/own_images.py PATH
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, random_split

import asose_fast
from asose_fast import MixedOp
from asose_fast.data.torchvision_compat import import_torchvision

import_torchvision()  # also where it was built for another torch
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

CANDIDATES = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5")
"""Known by their names, and fused."""


def upright(path: str) -> Image.Image:
    """An image as it is to be looked at: photos often lie on their side, and say so in their EXIF data."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def make_network(classes: int, channels: int = 16) -> nn.Module:
    """Two stages of two mixed operations."""

    def widened(c: int) -> list[nn.Module]:
        return [nn.ReLU(), nn.Conv2d(c, 2 * c, 1), nn.BatchNorm2d(2 * c)]

    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        MixedOp.named(CANDIDATES, channels, stride=1),
        MixedOp.named(CANDIDATES, channels, stride=2),
        *widened(channels),
        MixedOp.named(CANDIDATES, 2 * channels, stride=1),
        MixedOp.named(CANDIDATES, 2 * channels, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, classes),
    )


def main(folder: str, epochs: int = 60, size: int = 32, out: str | None = "runs/own_images") -> asose_fast.SearchResult:
    """Searches; checkpoints, metrics and report.html go to `out`, and a search that ended early goes on from there."""
    torch.manual_seed(0)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((size, size)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    images, test = (ImageFolder(Path(folder) / part, transform, loader=upright) for part in ("train", "test"))
    train, valid = random_split(images, [0.75, 0.25])
    loaders = [DataLoader(part, batch_size=64, shuffle=True) for part in (train, valid, test)]
    result = asose_fast.search(make_network(len(images.classes)), loaders, asose_fast.Config(epochs=epochs), folder=out)
    print(result.genotype, f"test accuracy {result.test_score:.1%}")
    return result


if __name__ == "__main__":
    main(sys.argv[1])
