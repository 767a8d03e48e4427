"""Batches are divided among the processes that train one network together."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """A process trains on part `index` of `count`. By default this is the whole."""

    index: int = 0
    count: int = 1

    def rows(self, images: int) -> slice:
        """Returns the consecutive images of a batch that belong to this part. The parts make up the batch and differ by
        one image at most. So a part is empty where the batch has fewer images than there are parts."""
        return slice(images * self.index // self.count, images * (self.index + 1) // self.count)

    def turns(self, first: int, end: int) -> range:
        """Returns the batches that belong to this part among the numbers `first` to `end` - 1. These are every
        `count`-th."""
        return range(first + self.index, end, self.count)
