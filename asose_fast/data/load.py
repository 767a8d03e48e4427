"""This module leads from settings to the three splits. Whatever is wrong with the data is raised here, before a run
begins."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Literal, TypeVar

import torch
from torch import Tensor

from asose_fast.data import stratify
from asose_fast.data.cache import NoRoomError, cached
from asose_fast.data.config import DataConfig
from asose_fast.data.errors import DataError
from asose_fast.data.images import FileImages, Images
from asose_fast.data.pool import MemoryPool, Pool, StreamPool
from asose_fast.data.scan import scan
from asose_fast.data.seeds import generator
from asose_fast.data.sources import Source, find_source
from asose_fast.data.split import Split
from asose_fast.data.transform import Transform

AnyConfig = TypeVar("AnyConfig", bound=DataConfig)
Trained = Literal["each", "train", "joined"]
"""Steps take batches of the training and of the validation split, of the former alone, or of the two joined."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The data are the three splits and what a network must know of them.

    Attributes:
        train: trains the weights. It is shuffled, and augmented as configured.
        valid: serves the architecture, growth and health. It is in fixed order and never augmented, unless asked.
        test: is to be read once, at the end. It depends neither on the seed nor on the limit of the training images.
        classes: the names; label y means classes[y].
        channels: 1 or 3.
        image_size: the side of the square images.
        mean: the mean of each channel of the training split, for values from 0 to 1; x = (value - mean) / std.
        std: the standard deviation of each channel, likewise.
        digest: the SHA-256 of what a run is computed from: the images of all splits, their labels and the division.
        notes: what a user should know of how the images were found, in a sentence each.
        resizing: why the images are resized to a side that the config does not say; empty where they are not.
        storage: how much the decoded images are, and where they lie.
        test_names: the files of the test images in their fixed order; none of a set that has no files.
    """

    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    notes: tuple[str, ...] = ()
    resizing: str = ""
    storage: str = ""
    test_names: tuple[str, ...] = ()

    @property
    def joined(self) -> Data:
        """Returns the data with the validation images among the training ones."""
        return dataclasses.replace(self, train=self.train.joined(self.valid))


def load_data(
    config: DataConfig, batch_size: int, seed: int, device: torch.device, *, trained: Trained = "each"
) -> Data:
    """Finds, checks and divides the images of `config` and reads each of them once.

    Args:
        config: says which images.
        batch_size: the images of a batch, at least 1.
        seed: any integer; it determines the training and validation split, the order and the augmentation.
        device: has the batches. Sets within `config.memory_limit_gb` are kept there as uint8.
        trained: the splits that must make a whole batch, since they are trained on; others are only measured.

    Raises:
        DataNotFoundError: a folder or its images are missing, or a download fails.
        DataError: the images, or their number, do not allow a training; the message says why and what to change.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    source = find_source(config)
    members = _divide(source, config, seed)
    _check_enough(members, config, batch_size, source.valid is not None, trained)

    images = source.open(torch.cat(members))
    labels = source.labels[torch.cat(members)]
    size = len(images) * math.prod(images.shape)
    in_memory = size <= config.memory_limit_gb * 1e9
    storage = f"decoded images take {_gigabytes(size)}"
    if in_memory:
        storage += " of memory"
    else:
        images, where = _on_disk(images, config)
        storage += f", above memory_limit_gb {config.memory_limit_gb:g}: {where}"
    pixels, mean, std, pixel_digest = scan(images, len(members[0]), keep=in_memory)
    pool: Pool
    if pixels is not None:
        pool = MemoryPool(pixels.to(device), labels.to(device))
    else:
        pool = StreamPool(images, labels, config.workers, device)

    size, _, channels = images.shape
    mirror = source.mirror if config.mirror is None else config.mirror
    transform = Transform.normalising(mean, std, max(1, size // 8), mirror, device)

    def split(name: str, numbers: Tensor, *, train: bool = False) -> Split:
        augment = train and config.augment
        return Split(name, pool, numbers, transform, batch_size=batch_size, seed=seed, shuffle=train, augment=augment)

    train, valid, test = torch.arange(len(images)).split([len(numbers) for numbers in members])
    return Data(
        split("train", train, train=True),
        split("valid", valid),
        split("test", test),
        source.classes,
        channels,
        size,
        mean,
        std,
        _digest(pixel_digest, images.shape, source.classes, [labels[part].tolist() for part in (train, valid, test)]),
        source.notes,
        images.resizing,
        storage,
        tuple(source.names[number] for number in members[2].tolist()) if source.names else (),
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _on_disk(images: Images, config: DataConfig) -> tuple[Images, str]:
    """Returns images too large for the memory as they are read best, and how that is."""
    if not isinstance(images, FileImages):
        return images, "they stay in the memory of the host"
    if config.cache_root is None:
        return images, "they are decoded anew in every epoch"
    try:
        found = cached(images, config.cache_root)
    except NoRoomError as error:
        return images, f"they are decoded anew in every epoch, since {error}"
    return found, f"they are read from {found.path}"


def settled(config: AnyConfig, data: Data) -> AnyConfig:
    """Returns the settings with the side that the images were resized to, so that whoever goes on takes the same."""
    return dataclasses.replace(config, image_size=data.image_size) if data.resizing else config


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _divide(source: Source, config: DataConfig, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the numbers of the training, validation and test images."""
    classes = len(source.classes)
    needed = 2 * classes if source.valid is None else classes
    if config.limit_train is not None and config.limit_train < needed:
        raise DataError(
            f"limit_train must be at least {needed}, one image to train{' and one to validate' * (needed > classes)} "
            f"for each of the {classes} classes of {config.dataset}, got {config.limit_train}"
        )
    if config.limit_test is not None and config.limit_test < classes:
        raise DataError(
            f"limit_test must be at least {classes}, one image for each class of {config.dataset}, "
            f"got {config.limit_test}"
        )
    labels = source.labels

    def limited(numbers: Tensor, limit: int | None, randomness: torch.Generator) -> Tensor:
        return numbers[stratify.limited(labels[numbers], classes, limit, randomness)]

    chosen = limited(source.train, config.limit_train, generator(seed, "limit"))
    if source.valid is not None:
        train, valid = chosen, limited(source.valid, config.limit_train, generator(seed, "limit_valid"))
    else:
        purpose, randomness = "training and validation", generator(seed, "valid")
        train, valid = (
            chosen[part]
            for part in stratify.divided(labels[chosen], source.classes, config.valid_fraction, randomness, purpose)
        )
    # The test images are the same for every seed, so that runs can be compared.
    return train, valid, limited(source.test, config.limit_test, generator(0, "limit_test"))


def _check_enough(
    members: tuple[Tensor, Tensor, Tensor], config: DataConfig, batch_size: int, own_validation: bool, trained: Trained
) -> None:
    train, valid = len(members[0]), len(members[1])
    needed = {
        "each": {"training": train, "validation": valid},
        "train": {"training": train},
        "joined": {"training and validation": train + valid},
    }
    division = "" if own_validation or trained == "joined" else f"valid_fraction ({config.valid_fraction}) or "
    for name, count in needed[trained].items():
        if count < batch_size:
            raise DataError(
                f"{config.dataset} leaves {count} {name} images, fewer than one batch of {batch_size}: lower "
                f"batch_size to {count} or less, or change {division}limit_train ({config.limit_train})"
            )
