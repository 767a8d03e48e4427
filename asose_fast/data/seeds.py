"""Independent random streams come from one seed. Each draw is a function of what it is for, not of what came before."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Returns a CPU generator for one purpose, such as `generator(seed, "train", "order", epoch)`.

    It is always on the CPU, so that every device draws the same numbers.
    """
    digest = hashlib.blake2b("/".join(map(str, (seed, *purpose))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
