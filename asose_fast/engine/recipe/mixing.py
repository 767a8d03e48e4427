"""Mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899): images of two classes in one."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor


def draw_share(concentration: float, generator: torch.Generator) -> float:
    """Draws the share of an image that stays, from Beta(concentration, concentration); torch has no such draw from a
    generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return random.Random(seed).betavariate(concentration, concentration)


def mix_up(x: Tensor, y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blends each image with the one before it in the batch, and their targets in the same shares:

        x'_i = share x_i + (1 - share) x_{i-1},    y'_i likewise

    x is (N, C, H, W), y the targets (N, classes) in float; the first image is paired with the last.
    """
    return x.lerp(x.roll(1, 0), 1 - share), y.lerp(y.roll(1, 0), 1 - share)


def cut_mix(x: Tensor, y: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replaces a rectangle of each image by that of the one before it in the batch, and mixes targets by area.

    The rectangle has the sides sqrt(1 - share) H and sqrt(1 - share) W, rounded down, around a pixel that `generator`
    draws for the batch. What lies outside the image is left out, and what is left counts as the area.
    """
    height, width = x.shape[2:]
    (top, bottom), (left, right) = (_span(side, math.sqrt(1 - share), generator) for side in (height, width))
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x.roll(1, 0)[:, :, top:bottom, left:right]
    area = (bottom - top) * (right - left) / (height * width)
    return mixed, y.lerp(y.roll(1, 0), area)


def _span(side: int, share: float, generator: torch.Generator) -> tuple[int, int]:
    centre, length = int(torch.randint(side, (), generator=generator)), int(side * share)
    first = centre - length // 2
    return max(0, first), min(side, first + length)


def mixed(
    x: Tensor, y: Tensor, classes: int, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixes a batch in one of the two ways; where both have a concentration above 0, each is as likely.

    x is float (N, C, H, W), and y int64 (N,), the labels. Returns images, and targets float32 (N, classes) that add up
    to 1. `generator` is on the CPU.
    """
    targets = x.new_zeros(len(y), classes, dtype=torch.float32).scatter_(1, y[:, None], 1.0)
    cut = bool(cutmix) and (not mixup or bool(torch.randint(2, (), generator=generator)))
    share = draw_share(cutmix if cut else mixup, generator)
    return cut_mix(x, targets, share, generator) if cut else mix_up(x, targets, share)
