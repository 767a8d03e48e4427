"""A split of the data is read in batches that depend on nothing but (seed, split, epoch, batch number)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from asose_fast.data.errors import DataError
from asose_fast.data.part import Part
from asose_fast.data.pool import Pool
from asose_fast.data.seeds import generator
from asose_fast.data.transform import Transform


class Split:
    """A split holds the images of one purpose, "train", "valid" or "test"."""

    def __init__(
        self,
        name: str,
        pool: Pool,
        members: Tensor,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        augment: bool,
    ) -> None:
        """Takes `members`, which are numbers in `pool`, int64 (n,) on the CPU. `shuffle` and `augment` are the defaults
        of `batches`."""
        self.name = name
        self.batch_size = batch_size
        self._pool = pool
        self._members = members
        self._transform = transform
        self._seed = seed
        self._shuffle = shuffle
        self._augment = augment

    def joined(self, other: Split) -> Split:
        """Returns a split with the images of both, which gives them as this one does."""
        return Split(
            self.name,
            self._pool,
            torch.cat((self._members, other._members)),
            self._transform,
            batch_size=self.batch_size,
            seed=self._seed,
            shuffle=self._shuffle,
            augment=self._augment,
        )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._members)

    @property
    def labels(self) -> Tensor:
        """Returns the labels in the fixed order, int64 (n,) on the CPU."""
        return self._pool.labels.cpu()[self._members]

    def num_batches(self) -> int:
        """Returns the batches an epoch. The last may be smaller, and is never dropped."""
        return -(-len(self) // self.batch_size)

    def pixels(self, numbers: Tensor) -> Tensor:
        """Returns images by their places in the fixed order (int64, CPU), uint8 (n, H, W, C) on the CPU."""
        if not len(numbers):
            return torch.empty(0, 0, 0, 0, dtype=torch.uint8)
        (found,) = self._pool.fetch([self._members[numbers]])
        return found.pixels[found.numbers].cpu()

    def batches(
        self,
        epoch: int,
        *,
        start: int = 0,
        shuffle: bool | None = None,
        augment: bool | None = None,
        part: Part | None = None,
        turns: Part | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of an epoch, from number `start` on.

        They are a pure function of the arguments, the seed and the batch size: what comes from `start` is bit for bit
        what a full epoch gives from there, so a run resumes with two integers. The global random state is not used.

        Args:
            epoch: any number; each has its own order and augmentation.
            start: first batch, 0 to num_batches().
            shuffle: order drawn for the epoch, or one fixed order (in which classes are mixed too). None: the former
                for train, the latter for valid and test.
            augment: random crop and mirroring. None: as configured for train, never for valid and test.
            part: of each batch, give these images alone, maybe none: bit for bit those that the whole batch has there.
            turns: give only these of the batches.

        Returns:
            Iterator of x float32 (B, C, H, W) in channels_last memory, normalised by mean and standard deviation of
            the training split, and y int64 (B,), both on the device. Nothing in it waits for the device.

        Raises:
            DataError: `start` is out of range.
        """
        if not 0 <= start <= self.num_batches():
            raise DataError(f"start must be 0 to {self.num_batches()}, the batches of {self.name}, got {start}")
        shuffle = self._shuffle if shuffle is None else shuffle
        augment = self._augment if augment is None else augment
        return self._batches(epoch, start, shuffle, augment, part or Part(), turns or Part())

    def _batches(
        self, epoch: int, start: int, shuffle: bool, augment: bool, part: Part, turns: Part
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._members
        if shuffle:
            order = order[torch.randperm(len(order), generator=generator(self._seed, self.name, "order", epoch))]
        whole = order.split(self.batch_size)
        chosen = turns.turns(start, self.num_batches())
        rows = [part.rows(len(whole[number])) for number in chosen]
        fetched = self._pool.fetch([whole[number][r] for number, r in zip(chosen, rows, strict=True)])
        for number, r, (pixels, numbers, labels) in zip(chosen, rows, fetched, strict=True):
            moves = None
            if augment:  # drawn for the whole batch, so that an image moves alike whoever asks for it
                randomness = generator(self._seed, self.name, "augment", epoch, number)
                moves = self._transform.draw(len(whole[number]), randomness)[:, r]
            yield self._transform(pixels, numbers, moves), labels
