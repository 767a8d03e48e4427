"""Batch norm has no variance of one value a channel: of one image whose maps have shrunk to one pixel."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from asose_fast.data import Split
from asose_fast.space.build import ImageNetwork

_LARGEST = 32
"""Larger images never become one pixel: no space halves more than three times, after a stem of stride 4."""


@torch.no_grad()
def require_more(
    network: ImageNetwork, candidates: int, splits: Sequence[Split], image_size: int, processes: int = 1
) -> None:
    """Raises ValueError where a step would come to that, as it might late in an epoch. `splits` are those that steps
    take batches of, each divided among `processes` that have statistics of their own. A layer has so many
    `candidates`."""
    if not 0 < image_size <= _LARGEST:
        return
    for split in splits:
        for images in (split.batch_size, len(split) % split.batch_size or split.batch_size):
            if images // processes <= 1 and not _trains_on_one(network, candidates, image_size):
                among = f" among {processes} processes" if processes > 1 else ""
                raise ValueError(
                    f"batch_size {split.batch_size} leaves a batch of {images}{among} of the {len(split)} images of "
                    f"{split.name}: at {image_size}x{image_size} pixels batch norm needs two images a batch or more. "
                    "Change batch_size or the number of images, or give larger ones"
                )


def _trains_on_one(network: ImageNetwork, candidates: int, image_size: int) -> bool:
    parameter, spec = next(network.parameters()), network.spec
    x = torch.zeros(1, spec.in_channels, image_size, image_size, device=parameter.device)
    plan = {} if spec.derived else {"weights": torch.ones(spec.rows, candidates, device=parameter.device)}
    with torch.random.fork_rng(devices=[]):
        try:
            copy.deepcopy(network).train()(x, **plan)
        except ValueError:
            return False
    return True
