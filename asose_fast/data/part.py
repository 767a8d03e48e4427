"""How batches are divided among the processes that train one network together."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `index` of `count`; by default the whole."""

    index: int = 0
    count: int = 1

    def rows(self, images: int) -> slice:
        """Its consecutive images of a batch. The parts make up the batch and differ by one image at most, so that one
        is empty where the batch has fewer images than there are parts."""
        return slice(images * self.index // self.count, images * (self.index + 1) // self.count)

    def turns(self, first: int, end: int) -> range:
        """Its batches among the numbers `first` to `end` - 1: every `count`-th."""
        return range(first + self.index, end, self.count)
