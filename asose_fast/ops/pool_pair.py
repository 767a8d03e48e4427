"""Average and max pooling of one input, 3x3 with padding 1, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_all_like, check_flag, check_images, check_like, check_stride
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.reference.pool_pair import maxima, pool, reference

registry.register(
    "pool_pair",
    {
        "reference": "asose_fast.ops.reference.pool_pair",
        "cpu": "asose_fast.ops.native.pool_pair",
        "triton": "asose_fast.ops.triton.pool_pair",
    },
)


def pool_pair(x: Tensor, *, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Both 3x3 poolings of a mixed layer, reading x once (docs/kernels.md).

        avg = avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)
        max = max_pool2d(x, 3, stride, padding=1)
        dL/dx = sum over the windows that hold x of  g_avg / count + (x is the window's maximum) g_max

    As in PyTorch, the first maximum in row-major order takes the gradient, and a NaN makes its windows NaN. Its
    position is found again in backward, so that nothing but x is kept. A pooling whose output is not used costs
    nothing backward.

    Args:
        x: (N, C, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.
        stride: 1 or 2.

    Returns:
        avg and max: (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or range.
    """
    _check("pool_pair", x, stride)
    if transformed():
        return reference(x, stride=stride)
    return _PoolPair.apply(x.contiguous(memory_format=torch.channels_last), stride, True, True)  # type: ignore[no-any-return]


def pool_3x3(x: Tensor, *, maximum: bool, stride: int = 1) -> Tensor:
    """One of the poolings that `pool_pair` gives, the maximum or the average, in the time of one.

    Args:
        x, stride: as for `pool_pair`.
        maximum: which of them.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or range.
    """
    _check("pool_3x3", x, stride)
    check_flag("pool_3x3: maximum", maximum)
    if transformed():
        return pool(x, maximum=maximum, stride=stride)
    pooled = _PoolPair.apply(x.contiguous(memory_format=torch.channels_last), stride, not maximum, maximum)
    y: Tensor = pooled[maximum]
    return y


def _check(where: str, x: Tensor, stride: int) -> None:
    check_images(f"{where}: x", x)
    check_stride(f"{where}: stride", stride)


def _differentiable_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    def plain(x: Tensor, stride: int, *needs: bool) -> list[Tensor]:
        return [pool(x, maximum=i == 1, stride=stride) if need else x.new_empty(0) for i, need in enumerate(needs)]

    return gradients(ctx, plain, (*ctx.saved_tensors, ctx.stride, *ctx.needs), grads)


class _PoolPair(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, need_avg: bool, need_max: bool) -> tuple[Tensor, Tensor]:
        ctx.stride, ctx.needs = stride, (need_avg, need_max)
        ctx.set_materialize_grads(False)
        save(ctx, x)
        avg, max, *_ = pool_pair_fwd(x, stride, need_avg, need_max, False, False)
        return avg, max

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad_avg: Tensor | None, grad_max: Tensor | None) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        none = x.new_empty(0)
        grad_x = pool_pair_bwd([grad_avg, grad_max], [None, None], none, x, ctx.stride, [], none, 0, None)
        return grad_x, None, None, None


def out_shape(x: Tensor, stride: int) -> tuple[int, ...]:
    """(N, C, ceil(H / stride), ceil(W / stride))."""
    return (*x.shape[:2], *((size - 1) // stride + 1 for size in x.shape[2:]))


def _fwd(x: Tensor, stride: int, need_avg: bool, need_max: bool, for_norms: bool, need_active: bool) -> Any:
    """avg, max, what `for_norms` of a backend gives besides, and relu(x); each is empty where it is not needed.

    A max of stride 1 is not needed beside its places (`asose_fast.ops.reference.pool_pair.maxima`)."""
    backend = registry.select("pool_pair", x)
    if for_norms and hasattr(backend, "for_norms"):
        return backend.for_norms(x, stride, need_active)
    rest = *(x.new_empty(0) for _ in range(3)), x.relu() if need_active else x.new_empty(0)
    return *backend.forward(x, stride, need_avg, need_max), *rest


def _check_fwd(x: Tensor, stride: int, need_avg: bool, need_max: bool, for_norms: bool, need_active: bool) -> None:
    _check("pool_pair", x, stride)
    if for_norms and not (need_avg and need_max):
        raise ValueError("pool_pair: for_norms must be False where a pooling is not needed")


def _fwd_fake(
    x: Tensor, stride: int, need_avg: bool, need_max: bool, for_norms: bool, need_active: bool
) -> tuple[Tensor, ...]:
    shape = out_shape(x, stride)
    avg, max = (empty_channels_last(x, shape) if need else x.new_empty(0) for need in (need_avg, need_max))
    active = torch.empty_like(x) if need_active else x.new_empty(0)
    if for_norms and hasattr(registry.select("pool_pair", x), "for_norms"):
        mean, var = (x.new_empty(2, x.shape[1], dtype=torch.float64) for _ in range(2))
        places = torch.empty_like(avg, dtype=torch.uint8)
        return avg, x.new_empty(0) if stride == 1 else max, mean, var, places, active
    return avg, max, *(x.new_empty(0) for _ in range(3)), active


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grads: list[Tensor | None]
    zs: list[Tensor | None]
    """avg and max, each where a norm after it used its statistics. With stride 1 and places, x may stand for max."""
    tables: Tensor
    x: Tensor
    stride: int
    terms: list[Tensor]
    factors: Tensor
    """Those of the first terms; the terms after them count once."""
    rectified: int
    """So many of the last terms are gradients of relu(x), and count where x is positive."""
    places: Tensor | None
    """Where in its window each maximum is, in row-major order; None: they are found again."""


def _bwd(*args: Any) -> Any:
    call = _Backward(*args)
    backend = registry.select("pool_pair", call.x)
    if call.stride == 1 and call.zs[1] is not None and call.places is not None and not hasattr(backend, "for_norms"):
        call = call._replace(zs=[call.zs[0], maxima(call.x, call.places)])
    return backend.backward(*call)


def _check_bwd(*args: Any) -> None:
    grads, zs, tables, x, stride, terms, factors, rectified, places = _Backward(*args)
    _check("pool_pair", x, stride)
    if places is not None:
        check_like("pool_pair_bwd: places", places, out_shape(x, stride), torch.uint8)
    for name, tensors in (("grads", grads), ("zs", zs)):
        check_all_like(f"pool_pair_bwd: {name}", tensors, 2, out_shape(x, stride), x.dtype)
    if tables.shape != (0,):
        check_like("pool_pair_bwd: tables", tables, (2, 4, x.shape[1]), *FLOATS)
    check_all_like("pool_pair_bwd: terms", terms, len(terms), x.shape, x.dtype)
    count = factors.numel()
    check_like("pool_pair_bwd: factors", factors, (min(count, len(terms)),), *FLOATS)
    if not 0 <= rectified <= len(terms) - count:
        raise ValueError(
            f"pool_pair_bwd: rectified must be 0 to {len(terms) - count}, the terms without a factor, got {rectified}"
        )


def _bwd_fake(*args: Any) -> Tensor:
    return torch.empty_like(_Backward(*args).x, memory_format=torch.channels_last)


pool_pair_fwd = define(
    "pool_pair_fwd(Tensor x, int stride, bool need_avg, bool need_max, bool for_norms, bool need_active) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
pool_pair_bwd = define(
    "pool_pair_bwd(Tensor?[] grads, Tensor?[] zs, Tensor tables, Tensor x, int stride, Tensor[] terms, "
    "Tensor factors, int rectified, Tensor? places) -> Tensor",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
