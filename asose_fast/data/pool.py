"""Where the images of all splits lie while a run reads them: on the device, or encoded on the disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
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
    def fetch(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Batches of images by their numbers (int64, CPU); a batch may be empty."""


@dataclasses.dataclass(frozen=True)
class MemoryPool:
    """All images decoded: `pixels` uint8 (N, H, W, C) and `labels` int64 (N,) on the device."""

    pixels: Tensor
    labels: Tensor

    def fetch(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        if not batches:
            return
        everything = upload(torch.cat(list(batches)), self.pixels.device)
        for numbers in everything.split([len(batch) for batch in batches]):
            yield Batch(self.pixels, numbers, self.labels[numbers])


@dataclasses.dataclass(frozen=True)
class StreamPool:
    """Images decoded for each batch, by `workers` processes or, with 0, in this one; `labels` int64 (N,) on the CPU."""

    images: Images
    labels: Tensor
    workers: int
    device: torch.device

    def fetch(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Batches(self.images, self.labels, batches),
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=_outlive_stops,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader would draw its seed from torch's global stream
        )
        for pixels, labels in loader:
            numbers = torch.arange(len(labels), device=self.device)
            yield Batch(pixels.to(self.device, non_blocking=True), numbers, labels.to(self.device, non_blocking=True))


def _outlive_stops(_: int) -> None:
    """Terminals and torchrun signal a whole group of processes. A worker in one of its own serves on while the run ends
    in its own time; it ends when its process has."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


@dataclasses.dataclass(frozen=True)
class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """One item a batch, so that a worker is asked once for all of its images."""

    images: Images
    labels: Tensor
    batches: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        numbers = self.batches[batch]
        return self.images.read(numbers.tolist()), self.labels[numbers]
