"""Where the images of all splits lie while a run reads them: on the device, or encoded on the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asose_fast.data.images import Images
from asose_fast.data.upload import upload


class Batch(NamedTuple):
    """The images `pixels[numbers]`, all on the device."""

    pixels: Tensor  # uint8 (N, H, W, C)
    numbers: Tensor  # int64 (B,)
    labels: Tensor  # int64 (B,)


class Pool(Protocol):
    def fetch(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """The images of `order` (int64, CPU) in batches; the last may be smaller."""


@dataclasses.dataclass(frozen=True)
class MemoryPool:
    """All images decoded: `pixels` uint8 (N, H, W, C) and `labels` int64 (N,) on the device."""

    pixels: Tensor
    labels: Tensor

    def fetch(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        for numbers in upload(order, self.pixels.device).split(batch_size):
            if len(numbers):  # an empty tensor splits into one empty part
                yield Batch(self.pixels, numbers, self.labels[numbers])


@dataclasses.dataclass(frozen=True)
class StreamPool:
    """Images decoded for each batch, by `workers` processes or, with 0, in this one; `labels` int64 (N,) on the CPU."""

    images: Images
    labels: Tensor
    workers: int
    device: torch.device

    def fetch(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Batches(self.images, self.labels, order, batch_size),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader would draw its seed from torch's global stream
        )
        for pixels, labels in loader:
            numbers = torch.arange(len(labels), device=self.device)
            yield Batch(pixels.to(self.device, non_blocking=True), numbers, labels.to(self.device, non_blocking=True))


@dataclasses.dataclass(frozen=True)
class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """One item a batch, so that a worker is asked once for all of its images."""

    images: Images
    labels: Tensor
    order: Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        numbers = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return self.images.read(numbers.tolist()), self.labels[numbers]
