"""A pool holds the images of all splits while a run reads them: on the device, or encoded on the disk."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from asose_fast.data.errors import DataError
from asose_fast.data.images import Images
from asose_fast.data.upload import upload

PATIENCE = 300.0
"""The processes that decode count as lost after so many seconds without a batch."""
_Sent = tuple[Tensor | np.ndarray[Any, Any], Tensor | np.ndarray[Any, Any]] | Exception
"""A worker sends a batch, or what kept it from one."""


class Batch(NamedTuple):
    """A batch is the images `pixels[numbers]`, all on the device."""

    pixels: Tensor  # uint8 (N, H, W, C)
    numbers: Tensor  # int64 (B,)
    labels: Tensor  # int64 (B,)


class Pool(Protocol):
    @property
    def labels(self) -> Tensor:
        """Returns the labels of all images, int64 (N,)."""

    def fetch(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Yields batches of images by their numbers (int64, CPU). A batch may be empty."""


@dataclasses.dataclass(frozen=True)
class MemoryPool:
    """All images lie decoded on the device: `pixels` is uint8 (N, H, W, C), and `labels` is int64 (N,)."""

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
    """Images are decoded for each batch, by `workers` processes or, with 0, in this one. `labels` is int64 (N,) on the
    CPU."""

    images: Images
    labels: Tensor
    workers: int
    device: torch.device

    def fetch(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        if self.workers:
            _require_room(self.workers)
        loader: DataLoader[_Sent] = DataLoader(
            _Batches(self.images, self.labels, batches),
            batch_size=None,
            collate_fn=_as_it_is,  # the default would make tensors of arrays
            num_workers=self.workers,
            timeout=PATIENCE if self.workers else 0,
            worker_init_fn=_outlive_stops,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader would draw its seed from torch's global stream
        )
        for sent in loader:
            pixels, labels = _received(sent)
            numbers = torch.arange(len(labels), device=self.device)
            yield Batch(pixels.to(self.device, non_blocking=True), numbers, labels.to(self.device, non_blocking=True))


def _as_it_is(sent: Any) -> Any:
    return sent


def _require_room(workers: int, folder: Path = Path("/dev/shm")) -> None:
    """Raises DataError where not even the semaphores of worker processes have room. (Where their batches have none,
    these go another way, `_shared`.)"""
    if folder.is_dir() and (left := shutil.disk_usage(folder).free) < 1 << 20:
        raise DataError(
            f"{workers} workers need shared memory, and {folder} has {left:,} bytes left: enlarge it (docker: "
            "--shm-size), free it, or start a run with --workers 0"
        )


def _outlive_stops(_: int) -> None:
    """Puts a worker into a process group of its own. Terminals and torchrun signal a whole group, so the worker serves
    on while the run ends in its own time. It ends when its process has."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


@dataclasses.dataclass(frozen=True)
class _Batches(Dataset[_Sent]):
    """An item is a whole batch, so that a worker is asked once for all of its images."""

    images: Images
    labels: Tensor
    batches: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> _Sent:
        numbers = self.batches[batch]
        if get_worker_info() is None:
            return self.images.read(numbers.tolist()), self.labels[numbers]
        try:
            return _shared(self.images.read(numbers.tolist())), _shared(self.labels[numbers])
        except (ValueError, OSError, MemoryError) as error:
            return error  # raised here, it would arrive with a traceback for its message


def _shared(tensor: Tensor) -> Tensor | np.ndarray[Any, Any]:
    """Returns the tensor in shared memory. Where that is full, it returns an array, which goes through a pipe instead.

    A DataLoader would find out too late, in a thread that cannot tell: whoever waits for the batch waits for ever.
    """
    try:
        tensor.share_memory_()
    except RuntimeError:
        return tensor.numpy()
    return tensor


def _received(sent: _Sent) -> tuple[Tensor, Tensor]:
    if isinstance(sent, Exception):
        raise sent
    pixels, labels = map(torch.as_tensor, sent)
    return pixels, labels
