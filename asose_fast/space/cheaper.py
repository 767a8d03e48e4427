"""Convolutions that cost less than a given one, and begin with the weights that come nearest to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from asose_fast.space.exact import computes

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RANK_SHARE = 4
"""`bottleneck` has one channel inside for so many outside."""
_GROUPS = (4, 2)
"""`grouped` has the first of these that divides its channels."""


def is_convolution(module: object) -> TypeGuard[Conv]:
    """Says whether a module does what torch's convolutions do, without hooks or methods of its own."""
    return any(computes(module, kind) for kind in _KINDS)


def smaller(conv: Conv) -> nn.Module | None:
    """Returns the centre of the kernel, without its outermost taps: 3x3 becomes 1x1, 7x7 becomes 5x5.

    It computes what `conv` would with zeros at those taps. None: the kernel or its padding has nothing to cut off.
    """
    cut = [size >= 3 for size in conv.kernel_size]
    padding = conv.padding
    if not isinstance(padding, str):
        padding = tuple(p - d * c for p, d, c in zip(padding, conv.dilation, cut, strict=True))
    if not any(cut) or padding == "valid" or (not isinstance(padding, str) and min(padding) < 0):
        return None
    centre = [slice(1, -1) if c else slice(None) for c in cut]
    return _like(conv, conv.weight[:, :, *centre], conv.bias, padding=padding)


def separable(conv: Conv) -> nn.Module | None:
    """Returns a depthwise convolution, then a pointwise one.

    Of input channel i, the kernels W_i (out, taps) become p_i d_i^T, their best approximation of rank 1: d_i is the
    first right singular vector of W_i, and p_i = W_i d_i (Eckart and Young 1936). None: `conv` has groups.
    """
    if conv.groups > 1:
        return None
    kernels = _exact(conv.weight).flatten(2).transpose(0, 1)  # (in, out, taps)
    taps = torch.linalg.eigh(kernels.mT @ kernels).eigenvectors[:, :, -1]  # (in, taps)
    mixing = torch.einsum("iot,it->oi", kernels, taps)
    shared = _root(mixing.norm(dim=0))
    depthwise = (taps * shared[:, None]).reshape(conv.in_channels, 1, *conv.kernel_size)
    return nn.Sequential(
        _like(conv, depthwise, None, groups=conv.in_channels), _pointwise(conv, mixing / shared, conv.bias)
    )


def grouped(conv: Conv) -> nn.Module | None:
    """Returns a convolution of 4 groups, or 2, that has the diagonal blocks of the weights.

    None: `conv` has groups, or channels that cannot be divided.
    """
    groups = next((g for g in _GROUPS if not (conv.in_channels % g or conv.out_channels % g)), 1)
    if conv.groups > 1 or groups == 1:
        return None
    rows = conv.weight.chunk(groups)
    blocks = [row.chunk(groups, 1)[i] for i, row in enumerate(rows)]
    return _like(conv, torch.cat(blocks), conv.bias, groups=groups)


def bottleneck(conv: Conv) -> nn.Module | None:
    """Returns the convolution to a quarter of the output channels, then a pointwise one.

    The weights W (out, in * taps) become U U^T W with the first out / 4 left singular vectors U, their best
    approximation of that rank (Eckart and Young 1936). None: `conv` has groups, or fewer than 4 output channels.
    """
    rank = conv.out_channels // _RANK_SHARE
    if conv.groups > 1 or not rank:
        return None
    kernels = _exact(conv.weight).flatten(1)
    vectors = torch.linalg.eigh(kernels @ kernels.T).eigenvectors[:, -rank:].flip(1)  # (out, rank), the largest first
    reduced = vectors.T @ kernels
    shared = _root(reduced.norm(dim=1))
    inside = (reduced / shared[:, None]).reshape(rank, *conv.weight.shape[1:])
    return nn.Sequential(_like(conv, inside, None), _pointwise(conv, vectors * shared, conv.bias))


CHEAPER: dict[str, Callable[[Conv], nn.Module | None]] = {
    "smaller": smaller,
    "separable": separable,
    "grouped": grouped,
    "bottleneck": bottleneck,
}
"""The convolutions by name."""


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float64)


def _root(norms: Tensor) -> Tensor:
    """Returns what the two factors of a product have to have norms alike; 1 where it is 0."""
    return torch.where(norms > 0, norms, 1.0).sqrt()


def _pointwise(conv: Conv, weight: Tensor, bias: Tensor | None) -> Conv:
    ones, zeros = (1,) * len(conv.kernel_size), (0,) * len(conv.kernel_size)
    return _like(conv, weight.reshape(*weight.shape, *ones), bias, stride=ones, padding=zeros, dilation=ones)


def _like(conv: Conv, weight: Tensor, bias: Tensor | None, **changes: Any) -> Conv:
    """Returns a convolution as `conv` but for the changes, with these values, where and as exact as its weights."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    settings: dict[str, Any] = {name: getattr(conv, name) for name in names} | changes
    settings |= {"kernel_size": tuple(weight.shape[2:]), "bias": bias is not None}
    inputs, kind = weight.shape[1] * settings["groups"], _KINDS[len(conv.kernel_size) - 1]
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
        made = kind(inputs, len(weight), **settings)
    made.weight = nn.Parameter(weight.detach().to(conv.weight, copy=True))
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made
