"""Cutout (DeVries and Taylor, arXiv 1708.04552): a square of every training image is blanked."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.data.upload import upload


def cut_out(x: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Returns a copy of x (N, C, H, W) in which a square of each image is 0, which is the mean of normalised images.

    The square has `length` pixels a side, and its centre is a pixel that `generator` (CPU) draws for each image. What
    lies outside the image is not cut.
    """
    images, _, height, width = x.shape
    centres = [upload(torch.randint(side, (images, 1), generator=generator), x.device) for side in (height, width)]
    inside = []
    for centre, side in zip(centres, (height, width), strict=True):
        place = torch.arange(side, device=x.device)
        first = centre - length // 2
        inside.append((place >= first) & (place < first + length))
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
