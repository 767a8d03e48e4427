"""TrivialAugment (arXiv 2103.10158) and RandAugment (arXiv 1909.13719), as torchvision has them."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from asose_fast.data.torchvision_compat import import_torchvision

Policy = Literal["trivial", "rand"]
_CLASSES: dict[Policy, str] = {"trivial": "TrivialAugmentWide", "rand": "RandAugment"}


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """Changes the images of normalised batches, each in a way of its own."""

    change: Callable[[Tensor], Tensor]
    """Takes and gives an image, uint8 (C, H, W), and draws from torch's global generator."""
    mean: Sequence[float]
    std: Sequence[float]
    """The batches are normalised by these, of values from 0 to 1."""

    @classmethod
    def make(cls, policy: Policy, mean: Sequence[float], std: Sequence[float]) -> AutoAugment:
        """Returns the policy with torchvision's settings. Raises ValueError without torchvision."""
        try:
            import_torchvision()
            transforms = importlib.import_module("torchvision.transforms")
        except ImportError as error:
            raise ValueError(f"auto_augment: {policy} needs torchvision: {error}") from error
        return cls(getattr(transforms, _CLASSES[policy])(), mean, std)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a copy of x, float (N, C, H, W), that depends on nothing random but `generator` (CPU)."""
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        pixels = ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            changed = [self.change(image) for image in pixels]
        batch = (torch.stack(changed).to(x.dtype) / 255 - mean) / std
        return batch.contiguous(memory_format=torch.channels_last)
