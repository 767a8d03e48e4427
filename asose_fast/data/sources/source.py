"""A set tells this before any image is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asose_fast.data import stratify
from asose_fast.data.images import ArrayImages, Images
from asose_fast.data.seeds import generator

_TEST_FRACTION = 0.2


@dataclasses.dataclass(frozen=True)
class Source:
    """A source has the images of a set, by number, and their classes.

    Attributes:
        classes: C names.
        labels: int64 (N,), of all images.
        train: int64, numbers of the images for training, and for validation where `valid` is None.
        test: int64, numbers of the images for the test.
        open: gives the images of these numbers, in this order; none but those are touched.
        mirror: whether an image mirrored left to right is still of its class.
        valid: int64, numbers of the validation images, where the set has its own; None: some of the training images.
        notes: what a user should know of how the images were found, in a sentence each.
        names: N files below the folder of the set; none of a set that has no files.
    """

    classes: tuple[str, ...]
    labels: Tensor
    train: Tensor
    test: Tensor
    open: Callable[[Tensor], Images]
    mirror: bool
    valid: Tensor | None = None
    notes: tuple[str, ...] = ()
    names: Sequence[str] = ()


def open_array(pixels: Tensor) -> Callable[[Tensor], Images]:
    """Returns the `open` of a set that is decoded already, uint8 (N, H, W, C)."""
    return lambda numbers: ArrayImages(pixels[numbers])


def numbered(train: int, test: int) -> tuple[Tensor, Tensor]:
    """Returns the numbers of training and test images where the test follows the training images."""
    first, second = torch.arange(train + test).split([train, test])
    return first, second


def apart_for_test(labels: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Returns the numbers of training and test images of a set without test images: 20 % of each class, the same in
    every run."""
    return stratify.divided(labels, classes, _TEST_FRACTION, generator(0, "test"), "training and test")
