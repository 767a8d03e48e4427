"""A check tells whether what was exported is the same function as the original."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asose_fast.export.errors import ExportError
from asose_fast.space.build import ImageNetwork
from asose_fast.space.genotype import Genotype

BATCHES = (1, 2, 7)
BOUND = 1e-5
"""The largest difference may be this share of the largest score. Float32 sums in another order differ by about 1e-7."""


def image_size(genotype: Genotype) -> int:
    """Returns the side of the images to trace and check with. It is 32 where the genotype does not know that of the
    training."""
    return genotype.image_size or 32


@torch.no_grad()
def largest_difference(
    network: ImageNetwork, exported: Callable[[Tensor], Tensor], genotype: Genotype, with_normalization: bool
) -> float:
    """Returns max |exported(x) - network(x)| / max |network(x)|, the largest over random batches of several sizes.

    Raises ExportError where it is above BOUND or no number, or where the shapes differ.
    """
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (genotype.mean, genotype.std))
    side, generator = image_size(genotype), torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in BATCHES:
        images = torch.rand(batch, len(mean), side, side, generator=generator)
        normalized = (images - mean) / std
        expected = network(normalized)
        got = exported(images if with_normalization else normalized)
        if got.shape != expected.shape:
            raise ExportError(f"the exported network gives {tuple(got.shape)}, the original {tuple(expected.shape)}")
        difference, scale = float((got - expected).abs().max()), float(expected.abs().max())
        if not difference <= BOUND * scale:
            raise ExportError(
                f"the exported network is not the original: for a batch of {batch}, scores differ by {difference:.2g} "
                f"where the largest is {scale:.2g}; at most {BOUND:.0e} of it can be rounding"
            )
        largest = max(largest, difference / scale if scale else 0.0)
    return largest
