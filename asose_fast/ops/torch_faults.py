"""Where PyTorch is wrong on CPUs, and convolutions that ask it for the same in a way in which it is right.

Every fault was found by comparing results and gradients with float64 formulas over kernels, strides, channels, dtypes
and layouts. tests/ops/test_torch_faults.py calls PyTorch bare in each, and fails once that is right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.layout import memory_format
from asose_fast.ops.tracing import tracing


class Fault(NamedTuple):
    """Something that PyTorch computes wrongly."""

    what: str
    instead: str
    """What PyTorch is asked for in place of that."""
    where: str
    """The functions that ask so."""
    isa: str
    """The instruction set of oneDNN that is wrong ("amx": that of tiles of bfloat16), or "any" where oneDNN has no part
    in it."""


VERSION = "2.13"
"""The version of torch, with oneDNN 3.12, in which the faults were found."""

FAULTS = {
    "weight gradient, one pixel wide": Fault(
        "bfloat16 weight gradients of a convolution along a width below its stride, kernels of width 1 excepted: "
        "uninitialised memory",
        "a stride no larger than the axis, which gives the same",
        "torch_faults._steps",
        "avx512",
    ),
    "one input channel": Fault(
        "float32 and bfloat16 outputs of a 1xk convolution of stride 2 along a width of 1 or 2, of one channel with "
        "the strides of channels_last: some are never computed",
        "the strides of contiguous tensors, which one channel has as well",
        "torch_faults.usual_strides",
        "avx512",
    ),
    "output, one pixel wide": Fault(
        "bfloat16 outputs of a convolution along a width no larger than its stride, kernels of width 1 excepted, where "
        "there are several rows: those of other pixels, and uninitialised memory",
        "stride 1, and its first column",
        "torch_faults.conv2d",
        "amx",
    ),
    "strides of the weight": Fault(
        "weight gradients where oneDNN is not used and a dimension of size 1 of the weight has another stride than "
        "PyTorch gives it: `RuntimeError: slow_conv2d: grad_weight must be contiguous`",
        "the usual strides",
        "torch_faults.usual_strides",
        "any",
    ),
    "pointwise of stride 2": Fault(
        "weight gradients of a 1x1 convolution of stride 2 with fewer than 8 input channels: written beyond their end",
        "every second pixel, and stride 1",
        "torch_faults._picked, FactorizedReduce",
        "avx2",
    ),
    "batch norm of mixed layouts": Fault(
        "gradients of batch norm where x is contiguous and the gradient channels_last, or the other way round, and a "
        "dimension of size 1 of the latter has another stride than PyTorch gives it: read in the layout of the other",
        "the usual strides",
        "MixedOp, for the gradient of a lone candidate",
        "any",
    ),
}


def usual_strides(t: Tensor) -> Tensor:
    """`t` with the strides that PyTorch gives its shape and memory format, in dimensions of size 1 too.

    Those say nothing about where values are, but PyTorch tells layouts by them. A view where `t` is in one of the two
    formats.
    """
    if 1 not in t.shape or t.dim() != 4 or 0 in t.shape:
        return t
    format = memory_format(t)
    t = t.contiguous(memory_format=format)
    n, c, h, w = t.shape
    if format == torch.channels_last:
        if t.stride() == (h * w * c, 1, w * c, c):
            return t
        return t.permute(0, 2, 3, 1).flatten().view(n, h, w, c).permute(0, 3, 1, 2)
    return t if t.stride() == (c * h * w, h * w, w, 1) else t.flatten().view(n, c, h, w)


def usual_gradient(y: Tensor) -> None:
    """Has the gradient of `y` handed on with its usual strides."""
    if y.requires_grad and 1 in y.shape and not torch.compiler.is_compiling():
        y.register_hook(usual_strides)


def conv2d(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, differentiable, for odd kernels with as many zeros around x as keep its size.

    What is recorded is that alone, since what stands for a tensor may have no shape to look at.
    """
    if tracing():
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)
    if stride != (1, 1):
        x, stride = _picked(x, weight, stride)
        stride = down, across = _steps(x, stride)
        if 1 < across == x.shape[3] and weight.shape[3] > 1:
            columns = conv2d(x, weight, (down, 1), padding, dilation, groups)
            return columns[..., :1].contiguous(memory_format=memory_format(columns))
    return F.conv2d(usual_strides(x), _usual_weight(weight, groups), None, stride, padding, dilation, groups)


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    *,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `conv2d` that are needed."""
    picked, steps = _picked(x, weight, stride)
    if steps != stride:
        of_picked, grad_weight = convolution_backward(
            grad, picked, weight, steps, padding, dilation, groups, need_x=need_x, need_weight=need_weight
        )
        if of_picked is None:
            return None, grad_weight
        grad_x = torch.zeros_like(x)
        grad_x[:, :, :: stride[0], :: stride[1]] = of_picked
        return grad_x, grad_weight
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, usual_strides(x), _usual_weight(weight, groups), None, _steps(x, stride), padding, dilation, False,
        [0, 0], groups, [need_x, need_weight, False],
    )  # fmt: skip
    return grad_x, grad_weight


def _usual_weight(weight: Tensor, groups: int) -> Tensor:
    """The weight with `usual_strides`; of several groups, with those of channels_last it is right as it is."""
    _, c, h, w = weight.shape
    if groups > 1 and weight.stride() == (h * w * c, 1, w * c, c):
        return weight
    return usual_strides(weight)


def _steps(x: Tensor, stride: tuple[int, int]) -> tuple[int, int]:
    """The stride, no larger than an axis is long."""
    (down, across), (height, width) = stride, x.shape[2:]
    return down if height >= down else max(1, height), across if width >= across else max(1, width)


def _picked(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The pixels that a 1x1 convolution of few channels reads, and the stride for those."""
    if weight.shape[2:] != (1, 1) or stride == (1, 1) or x.shape[1] >= 8:
        return x, stride
    down, across = stride
    return x[:, :, ::down, ::across].contiguous(memory_format=memory_format(x)), (1, 1)
