"""One pass over all images comes before a run. It proves that each can be read, and measures the training split."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.data.images import Images, chunks

# A channel that never changes would be divided by zero.
_SMALLEST_STD = 1 / 255


class Scan(NamedTuple):
    pixels: Tensor | None  # uint8 (N, H, W, C) on the CPU, where they were to be kept
    mean: tuple[float, ...]  # of each channel of the training images, for values from 0 to 1
    std: tuple[float, ...]
    digest: str  # SHA-256 of all pixels, in order


def scan(images: Images, num_train: int, keep: bool) -> Scan:
    """Reads all images, of which the first `num_train` are for training. Raises DataError that names all broken ones.

    Mean and standard deviation come from integer sums, so they are exact and do not depend on `keep`.
    """
    pixels = torch.empty((len(images), *images.shape), dtype=torch.uint8) if keep else None
    height, width, channels = images.shape
    sums, squares = [0] * channels, [0] * channels
    digest = hashlib.sha256()
    first = 0
    for chunk in chunks(images, "Reading images"):
        digest.update(chunk.contiguous().numpy().data)
        if pixels is not None:
            pixels[first : first + len(chunk)] = chunk
        values = chunk[: max(0, num_train - first)].reshape(-1, channels).double()  # float64 adds integers exactly
        for c, (total, square) in enumerate(zip(values.sum(0).tolist(), values.square().sum(0).tolist(), strict=True)):
            sums[c] += int(total)
            squares[c] += int(square)
        first += len(chunk)
    count = num_train * height * width
    mean = tuple(total / count / 255 for total in sums)
    # n * sum(x^2) - sum(x)^2 in whole numbers: no cancellation.
    variance = (count * square - total * total for total, square in zip(sums, squares, strict=True))
    std = tuple(max(math.sqrt(v) / count / 255, _SMALLEST_STD) for v in variance)
    return Scan(pixels, mean, std, digest.hexdigest())
