"""Which modules a fused operator computes exactly: chains of separable convolutions, lines, pools, reductions."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from asose_fast.ops.mixed_layer import Stage
from asose_fast.space.candidates import FactorizedReduce
from asose_fast.space.exact import computes


def stages_of(chain: list[nn.Module], stride: int) -> list[Stage]:
    """Returns the chain as stages, or nothing where it is something else."""
    stages: list[Stage] = []
    for first in range(0, len(chain), 4):
        if len(chain) < first + 4:
            return []
        relu, depthwise, pointwise, norm = chain[first : first + 4]
        if not (
            is_relu(relu)
            and (computes(depthwise, nn.Conv2d) and _is_depthwise(depthwise, 1 if stages else stride))
            and (computes(pointwise, nn.Conv2d) and is_pointwise(pointwise))
            and depthwise.in_channels == pointwise.in_channels == pointwise.out_channels
            and computes(norm, nn.BatchNorm2d)
        ):
            return []
        stages.append(Stage(depthwise, pointwise, norm))
    return stages


def _is_depthwise(conv: nn.Conv2d, stride: int) -> bool:
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    pad = dilation * (kernel - 1) // 2
    return (
        kernel % 2 == 1
        and dilation >= 1
        and (conv.kernel_size, conv.dilation) == ((kernel, kernel), (dilation, dilation))
        and (conv.stride, conv.padding) == ((stride, stride), (pad, pad))
        and conv.in_channels == conv.out_channels == conv.groups
        and _unbiased(conv)
        and conv.padding_mode == "zeros"
    )


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Says whether a convolution is one of 1x1, without bias."""
    return (
        (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
        and conv.groups == 1
        and _unbiased(conv)
    )


def _unbiased(conv: nn.Conv2d) -> bool:
    """Says whether `conv.bias is None`, which takes twenty times as long. A step asks this often."""
    return conv._parameters.get("bias", conv) is None


def is_any_depthwise(conv: object) -> TypeGuard[nn.Conv2d]:
    """Says whether `multi_depthwise` computes a convolution: square and depthwise, of stride 1 or 2, without a bias."""
    return computes(conv, nn.Conv2d) and conv.stride[0] in (1, 2) and _is_depthwise(conv, conv.stride[0])


def is_dense(conv: object) -> TypeGuard[nn.Conv2d]:
    """Says whether `dense_conv` computes a convolution: any odd kernel and stride, `same` padding, without a bias."""
    if not computes(conv, nn.Conv2d):
        return False
    height, width = conv.kernel_size
    return (
        height * width % 2 == 1
        and conv.padding == (height // 2, width // 2)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and _unbiased(conv)
        and conv.padding_mode == "zeros"
    )


def is_line(conv: object) -> TypeGuard[nn.Conv2d]:
    """Says whether `line_conv` computes a convolution: k taps of one axis, and `same` padding."""
    if not computes(conv, nn.Conv2d):
        return False
    height, width = conv.kernel_size
    stride = max(conv.stride)
    return (
        min(height, width) == 1 < max(height, width)
        and height * width % 2 == 1
        and conv.stride == ((stride, 1) if height > 1 else (1, stride))
        and stride <= 2
        and conv.padding == (height // 2, width // 2)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and _unbiased(conv)
        and conv.padding_mode == "zeros"
    )


def is_relu(module: object) -> TypeGuard[nn.ReLU]:
    return computes(module, nn.ReLU) and not module.inplace


def is_flattening(module: object) -> bool:
    """Says whether a module makes vectors of the images of a batch."""
    return computes(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)


def is_reduction(op: nn.Module) -> TypeGuard[FactorizedReduce]:
    return computes(op, FactorizedReduce) and (
        (computes(op.even, nn.Conv2d) and is_pointwise(op.even))
        and (computes(op.odd, nn.Conv2d) and is_pointwise(op.odd))
        and computes(op.norm, nn.BatchNorm2d)
    )


def is_average_pool(pool: object, stride: int) -> bool:
    return (
        computes(pool, nn.AvgPool2d)
        and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, stride, 1, False)
        and not pool.count_include_pad
        and pool.divisor_override is None
    )


def is_max_pool(pool: object, stride: int) -> bool:
    return (
        computes(pool, nn.MaxPool2d)
        and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, stride, 1, False)
        and pool.dilation == 1
        and not pool.return_indices
    )


def is_halving(pool: object) -> bool:
    """Says whether a module is max pooling of 2x2, with windows that are cut short where a side is odd."""
    return (
        computes(pool, nn.MaxPool2d)
        and (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, True)
        and not pool.return_indices
    )
