"""torchvision downloads these sets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asose_fast.data.errors import DataNotFoundError
from asose_fast.data.sources.source import Source, numbered, open_array
from asose_fast.data.torchvision_compat import import_torchvision
from asose_fast.paths import given_path

_CLASS_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}


def torchvision_set(name: str, root: str) -> Source:
    """Returns cifar10, cifar100 or fashion-mnist, downloaded into `root` unless it is there. Raises
    DataNotFoundError."""
    dataset = getattr(import_torchvision().datasets, _CLASS_NAMES[name])
    folder = given_path(root)
    try:
        train, test = (dataset(folder, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataNotFoundError(
            f"{name} is not in {folder.resolve()} and cannot be downloaded there: {error}. "
            "Copy it there, or set data_root to the folder that has it"
        ) from error
    labels = torch.cat([torch.as_tensor(part.targets) for part in (train, test)])
    pixels = torch.cat([_pixels(part.data) for part in (train, test)])
    return Source(
        tuple(train.classes), labels.long(), *numbered(len(train.data), len(test.data)), open_array(pixels), mirror=True
    )


def _pixels(data: Any) -> Tensor:
    """Returns uint8 (N, H, W, C) from the (N, H, W, 3) array of CIFAR or the (N, H, W) tensor of Fashion-MNIST."""
    pixels = torch.as_tensor(data)
    return pixels if pixels.dim() == 4 else pixels[..., None]
