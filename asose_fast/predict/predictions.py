"""Predictions are what a network says of image files, in the order of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Prediction(NamedTuple):
    """A prediction is of one image."""

    path: str
    name: str
    """The class of the highest probability has this name."""
    probability: float
    label: str | None
    """The folder of this class holds the image; None: it lies in the folder of no class."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network says of N images. Iterating gives a `Prediction` for each.

    Attributes:
        classes: C names.
        paths: N files.
        labels: N names of the class folders that the images lie in; None for one that lies in none.
        probabilities: float32 (N, C), the softmax of the scores.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Prediction]:
        highest, numbers = self.probabilities.max(1)
        found = zip(self.paths, numbers.tolist(), highest.tolist(), self.labels, strict=True)
        return (Prediction(path, self.classes[number], value, label) for path, number, value, label in found)

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Returns the `count` most probable classes of each image with their probabilities, the highest first."""
        values, numbers = self.probabilities.topk(min(count, len(self.classes)), 1)
        return [
            [(self.classes[number], value) for number, value in zip(row, of_row, strict=True)]
            for row, of_row in zip(numbers.tolist(), values.tolist(), strict=True)
        ]

    @property
    def labelled(self) -> int:
        """Returns how many images lie in the folder of a class."""
        return sum(label is not None for label in self.labels)

    @property
    def accuracy(self) -> float | None:
        """Returns the share of right predictions among the images in class folders; None where there are none."""
        return sum(found.name == found.label for found in self) / self.labelled if self.labelled else None
