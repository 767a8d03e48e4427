"""A user's batches as the data of a search."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asose_fast.library.objective import size

Loader = Iterable[Any]
"""Gives the batches (x, y) of one pass, whenever it is iterated: a DataLoader, a list."""


class Loaders:
    """The splits `train`, `valid` and, if there is one, `test`, of a search (`asose_fast.data.Data`)."""

    classes, channels, image_size = (), 0, 0

    def __init__(self, loaders: Sequence[Loader], device: torch.device, seed: int) -> None:
        """Raises TypeError or ValueError for loaders that cannot be searched with."""
        if not isinstance(loaders, (list, tuple)) or len(loaders) not in (2, 3):
            raise TypeError(
                "loaders must be (train, valid) or (train, valid, test), each an iterable of batches (x, y); got "
                f"{type(loaders).__name__}" + (f" of {len(loaders)}" if isinstance(loaders, (list, tuple)) else "")
            )
        names = ("training", "validation", "test")
        splits = [Passes(name, loader, device, seed) for name, loader in zip(names, loaders, strict=False)]
        self.train, self.valid, self.test = splits[0], splits[1], splits[2] if len(splits) > 2 else None
        self.digest = f"loaders of {[split.num_batches() for split in splits]} batches"


class Passes:
    """A loader, pass by pass. Pass e gives the same batches whenever it is made, in a resumed run too.

    For that, torch's generator on the CPU, NumPy's and Python's are seeded by the pass while a batch is fetched, and as
    before afterwards. So is a generator that a DataLoader holds; of a sampler, `set_epoch` is called.
    """

    def __init__(self, name: str, loader: Loader, device: torch.device, seed: int) -> None:
        """Raises TypeError or ValueError for what cannot be iterated again and again, or gives nothing."""
        if not isinstance(loader, Iterable):
            raise TypeError(f"the {name} loader must be an iterable of batches (x, y), got {type(loader).__name__}")
        if isinstance(loader, Iterator):
            raise ValueError(
                f"the {name} loader can be iterated only once; every epoch needs a pass: give a DataLoader or a list"
            )
        self.name, self.loader, self.device, self.seed = name, loader, device, seed
        self._count = _length(loader)
        if self.num_batches() < 1:
            raise ValueError(f"the {name} loader gives no batch")

    def num_batches(self) -> int:
        """Of one pass; where the loader has no length, the first call makes one to count."""
        if self._count is None:
            self._count = sum(1 for _ in self._fetched(0))
        return self._count

    def batches(self, epoch: int, start: int = 0, **_: Any) -> Iterator[tuple[Any, Any]]:
        """The batches of pass `epoch` from number `start` on, on the device. How else they are to be, the loader knows.

        Raises ValueError for a batch that is no pair or is empty, and for a pass without any.
        """
        given = 0
        for batch in self._fetched(epoch):
            given += 1
            if given <= start:
                continue
            if not isinstance(batch, (list, tuple)) or len(batch) != 2:
                what = type(batch).__name__ + (f" of {len(batch)}" if isinstance(batch, (list, tuple, dict)) else "")
                raise ValueError(f"a batch of the {self.name} loader must be a pair (x, y), got a {what}")
            if size(batch[1]) == 0:
                raise ValueError(f"a batch of the {self.name} loader must hold examples, number {given - 1} has none")
            yield moved(batch[0], self.device), moved(batch[1], self.device)
        if not given:
            raise ValueError(
                f"the {self.name} loader gave no batch in a further pass; every epoch needs all of them anew: give a "
                "DataLoader or a list"
            )

    def _fetched(self, epoch: int) -> Iterator[Any]:
        seed = random.Random(f"{self.seed} {self.name} {epoch}").getrandbits(63)
        draws = _Draws(seed)
        sampler: Any = getattr(self.loader, "sampler", None)
        own = getattr(self.loader, "generator", None)
        for generator in (own, getattr(sampler, "generator", None)):
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        with draws:
            batches = iter(self.loader)
        while True:
            with draws:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


class _Draws:
    """Global random numbers of their own inside the blocks, which go on where the last block ended."""

    def __init__(self, seed: int) -> None:
        outside = _states()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        self._inside = _states()
        _restore(outside)

    def __enter__(self) -> None:
        self._outside = _states()
        _restore(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = _states()
        _restore(self._outside)


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _restore(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def moved(values: Any, device: torch.device) -> Any:
    """Tensors on the device, in lists, tuples and dicts too; anything else as it is."""
    if isinstance(values, Tensor):
        return values.to(device, non_blocking=True)
    if isinstance(values, dict):
        return {key: moved(value, device) for key, value in values.items()}
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(moved(value, device) for value in values))
    if isinstance(values, (list, tuple)):
        return type(values)(moved(value, device) for value in values)
    return values
