"""Weights of classes whose images differ in number, and the hint that there are such classes."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.data import Data
from asose_fast.training_config import RecipeConfig

UNEVEN = 3
"""The hint comes where the largest class has so many times the images of the smallest."""


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Returns the weights with which every class counts as much as any other in a mean over the images.

    Of N images, n_c of class c, and K classes that have any:

        w_c = N / (K n_c),    so that    sum_i w_{y_i} = N

    A class without images has the weight 0. `labels` is int64 (N,), the result float32 (classes,) on the CPU.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts), 0.0)
    return weights.float()


def weights_of(config: RecipeConfig, data: Data, device: torch.device) -> Tensor | None:
    """Returns the weights (classes,) that the settings ask for, for the training images of `data`; None: none."""
    if config.class_weights is None:
        return None
    return balanced(data.train.labels, len(data.classes)).to(device)


def hints(config: RecipeConfig, data: Data) -> list[str]:
    """Returns a sentence where the classes of the training images differ much in number and are not weighted."""
    if config.class_weights is not None:
        return []
    counts = torch.bincount(data.train.labels, minlength=len(data.classes)).tolist()
    most, least = max(counts), min(counts)
    if most < UNEVEN * least:
        return []
    names = [data.classes[counts.index(count)] for count in (most, least)]
    return [
        f"the classes differ in size: {most} training images of {names[0]}, {least} of {names[1]}. Where each class is "
        "to count the same, give --class_weights balanced"
    ]
