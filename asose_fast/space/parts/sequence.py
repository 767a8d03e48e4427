"""A sequence of modules is run part by part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops.tracing import tracing
from asose_fast.space.convolution import Conv2d
from asose_fast.space.exact import classes_are_theirs, computes
from asose_fast.space.parts.conv_norm import find_conv_norm
from asose_fast.space.parts.convolution import find_convolution, find_depthwise
from asose_fast.space.parts.head import find_head
from asose_fast.space.parts.norm import find_norm
from asose_fast.space.parts.part import Finder, Part, in_turn
from asose_fast.space.parts.pool import find_pooling

FINDERS: dict[type, tuple[Finder, ...]] = {
    nn.ReLU: (find_head, find_depthwise, find_conv_norm, find_convolution),
    nn.Conv2d: (find_conv_norm, find_convolution),
    Conv2d: (find_conv_norm, find_convolution),
    nn.BatchNorm2d: (find_head, find_norm),
    nn.AvgPool2d: (find_pooling,),
    nn.MaxPool2d: (find_pooling,),
}
"""By the type of the first module; the first finder that finds something counts."""


def run_on_kernels(module: nn.Module, x: Tensor) -> Tensor:
    """Returns module(x). The parts of a sequence run on kernels where these compute the same and are faster."""
    followed = torch.compiler.is_compiling() or tracing()
    if followed or not classes_are_theirs() or not computes(module, nn.Sequential):
        y: Tensor = module(x)
        return y
    return in_turn(on_kernels(list(module._modules.values())), x)


def on_kernels(modules: Sequence[Part]) -> list[Part]:
    """Returns the parts that stand for a sequence of modules; a module that none stands for is one itself."""
    parts: list[Part] = []
    done = 0
    while done < len(modules):
        part, count = _first(modules[done:])
        parts.append(part)
        done += count
    return parts


def _first(modules: Sequence[Part]) -> tuple[Part, int]:
    for find in FINDERS.get(type(modules[0]), ()):
        if found := find(modules):
            return found
    return modules[0], 1
