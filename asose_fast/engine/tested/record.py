"""tested.json holds how a network's answers to the test images divide among classes, and its worst mistakes."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asose_fast import files
from asose_fast.bounds import Bounds, check_value
from asose_fast.data import Data
from asose_fast.engine.tested.answers import Answers
from asose_fast.engine.tested.picture import is_picture, picture
from asose_fast.store.checkpoint import write_json

FILE = "tested.json"
WORST = 12
"""So many mistakes are kept, those of the highest loss."""
LARGEST = 1e12
"""No loss of an image that says anything is beyond this."""
_NUMBER = Bounds(least=0, most=10**12)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A mistake is a test image that was given a wrong class. Raises ValueError for what is none."""

    name: str
    """The file below the folder of the images, or "image N" of a set that has no files."""
    label: int
    """The image is of this class."""
    predicted: int
    """It was given this one."""
    probability: float
    """The softmax gave the wrong class this."""
    loss: float | None
    """The cross-entropy; None where it is not finite, or beyond all reason."""
    picture: str
    """A data URI."""

    def __post_init__(self) -> None:
        check_value("name", self.name, str)
        for name in ("label", "predicted"):
            check_value(name, getattr(self, name), int, _NUMBER)
        check_value("probability", self.probability, float, Bounds(least=0, most=1))
        check_value("loss", self.loss, float | None, Bounds(least=0, most=LARGEST))
        if not is_picture(self.picture):
            raise ValueError("a picture is none")


class OfClass(NamedTuple):
    """The answers to the images of one class, and those that were this class."""

    name: str
    images: int
    right: int
    called: int
    """So many images were given this class."""
    taken_for: tuple[str, int] | None
    """The class that its images were most often given wrongly, and how many were; None where all are right."""

    @property
    def accuracy(self) -> float:
        """Returns the share of the images that were recognised, also named recall; NaN without images."""
        return self.right / self.images if self.images else math.nan

    @property
    def precision(self) -> float:
        """Returns the share of the images given this class that are of it; NaN where none was given it."""
        return self.right / self.called if self.called else math.nan

    @property
    def f1(self) -> float:
        """Returns the harmonic mean of both, 2 right / (images + called)."""
        return 2 * self.right / (self.images + self.called) if self.images + self.called else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Returns what summary.json says of the class; null for what is not defined."""
        shares = {"accuracy": self.accuracy, "precision": self.precision, "f1": self.f1}
        known = {name: None if math.isnan(share) else share for name, share in shares.items()}
        return {"class": self.name, "images": self.images, "right": self.right, **known}


@dataclasses.dataclass(frozen=True)
class Tested:
    """Raises ValueError where the parts do not fit each other."""

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, int, int], ...]
    """(label, predicted, images), in order, for every pair that has images."""
    mistakes: tuple[Mistake, ...]
    """The highest loss comes first."""

    def __post_init__(self) -> None:
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError("classes must be names")
        for numbers in self.confusion:
            for value in numbers:
                check_value("confusion", value, int, _NUMBER)
        labels = [number for pair in self.confusion for number in pair[:2]]
        labels += [number for mistake in self.mistakes for number in (mistake.label, mistake.predicted)]
        if max(labels, default=0) >= len(self.classes):
            raise ValueError(f"there is no class {max(labels)} of {len(self.classes)}")
        if len(self.mistakes) > WORST:
            raise ValueError(f"{len(self.mistakes)} mistakes are more than {WORST}")

    @property
    def per_class(self) -> list[OfClass]:
        """Returns the figures of each class, in their order."""
        images, called, right = (collections.Counter[int]() for _ in range(3))
        wrong: dict[int, tuple[int, int]] = {}
        for label, predicted, count in self.confusion:
            images[label] += count
            called[predicted] += count
            if label == predicted:
                right[label] = count
            elif count > wrong.get(label, (0, 0))[1]:
                wrong[label] = predicted, count
        return [
            OfClass(
                name,
                images[k],
                right[k],
                called[k],
                (self.classes[wrong[k][0]], wrong[k][1]) if k in wrong else None,
            )
            for k, name in enumerate(self.classes)
        ]

    def save(self, folder: Path) -> None:
        """Writes tested.json. Raises CheckpointError."""
        write_json(folder / FILE, dataclasses.asdict(self))


def load(folder: Path) -> Tested:
    """Reads tested.json of a folder. Raises OSError and ValueError, which name the file."""
    return files.parsed_json(folder / FILE, _parsed)


def _parsed(values: dict[str, Any]) -> Tested:
    return Tested(
        tuple(values["classes"]),
        tuple((label, predicted, count) for label, predicted, count in values["confusion"]),
        tuple(Mistake(**mistake) for mistake in values["mistakes"]),
    )


def recorded(found: Answers, data: Data) -> Tested:
    """Returns the record of the answers to the test images of `data`, of which the worst are read once more."""
    pairs, counts = (found.labels * len(data.classes) + found.predicted).unique(return_counts=True)
    confusion = [
        (*divmod(pair, len(data.classes)), count) for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)
    ]
    return Tested(data.classes, tuple(confusion), tuple(_mistakes(found, data)))


def _mistakes(found: Answers, data: Data) -> Sequence[Mistake]:
    wrong = (found.labels != found.predicted).nonzero()[:, 0]
    losses = found.losses.nan_to_num(math.inf, math.inf)[wrong]
    worst = wrong[losses.argsort(descending=True, stable=True)[:WORST]]
    return [
        Mistake(
            data.test_names[number] if data.test_names else f"image {number}",
            int(found.labels[number]),
            int(found.predicted[number]),
            float(found.probabilities[number].nan_to_num(0).clamp(max=1)),
            loss if (loss := float(found.losses[number])) <= LARGEST else None,
            picture(pixels),
        )
        for number, pixels in zip(worst.tolist(), data.test.pixels(worst), strict=True)
    ]
