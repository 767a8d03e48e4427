# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`separable` on GPUs: depthwise kernels, matrix products on the (pixels, channels) view, and the statistics.

Depthwise outputs are stored for the matrix product that follows, and computed again backward. Of the operators'
backends each step takes the one that the registry picks.
"""

from __future__ import annotations

from itertools import compress

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import without_autocast
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, place, tile

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_ELEMENTS = 4096
_CHUNK = 1024
"""Pixels that one product of a weight gradient adds up: a product over all of them would keep few processors busy."""


@launched
@triton.jit
def _grad_z_kernel(
    grads: tl.tuple,
    zs: tl.tuple,
    tables: tl.tensor,
    grad_zs: tl.tuple,
    rows: tl.int64,
    channels: tl.int64,
    HAS_Z: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, present = place(rows, channels, 1, BLOCK_P, BLOCK_C)
    for b in tl.static_range(len(grads)):
        table = tables + b * 4 * channels + channel
        scale = tl.load(table, mask=present, other=0.0)[None, :]
        value = scale * tl.load(grads[b] + at, mask=inside, other=0.0).to(ACC)
        if HAS_Z[b]:
            center = tl.load(table + channels, mask=present, other=0.0)[None, :]
            slope = tl.load(table + 2 * channels, mask=present, other=0.0)[None, :]
            shift = tl.load(table + 3 * channels, mask=present, other=0.0)[None, :]
            value += slope * (tl.load(zs[b] + at, mask=inside, other=0.0).to(ACC) - center) + shift
        value = tl.where(scale != 0, value, 0.0)
        tl.store(grad_zs[b] + at, value.to(grad_zs[b].dtype.element_ty), mask=inside)


def forward(
    xs: list[Tensor], params: Tensor, pointwise: Tensor, plan: DepthwisePlan, statistics: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The outputs of all branches and, where wanted, their means and variances (else empty tensors)."""
    ys = registry.select("multi_depthwise", xs[0], plan).forward(xs, params, plan)
    matrices = pointwise.to(xs[0].dtype)
    with without_autocast(xs[0]):
        zs = [_like_image(_pixels(y) @ w.t(), y) for y, w in zip(ys, matrices, strict=True)]
    if statistics:
        mean, var = registry.select("batch_statistics", zs[0]).forward(zs)
    else:
        mean, var = (params.new_empty(0, dtype=torch.float64) for _ in range(2))
    return zs, mean, var


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    xs: list[Tensor],
    params: Tensor,
    pointwise: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_depthwise: bool,
    need_pointwise: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The gradients of the inputs that need it, of params and of pointwise (else empty tensors)."""
    depthwise = registry.select("multi_depthwise", xs[0], plan)
    used = [g is not None for g in grads]
    grad_pointwise = torch.empty_like(pointwise) if need_pointwise else params.new_empty(0)
    if need_pointwise and not all(used):
        grad_pointwise.zero_()
    grad_ys: list[Tensor | None] = [None] * len(grads)
    if any(used):
        branches = list(compress(range(len(grads)), used))
        grad_zs = _grad_z([g for g in grads if g is not None], [zs[b] for b in branches], _rows(tables, branches))
        matrices = pointwise.to(xs[0].dtype)
        with without_autocast(xs[0]):
            for b, grad_z in zip(branches, grad_zs, strict=True):
                grad_ys[b] = _like_image(_pixels(grad_z) @ matrices[b], grad_z)
            if need_pointwise:
                ys = depthwise.forward(*_of_branches(branches, xs, params, plan))
                for b, grad_z, y in zip(branches, grad_zs, ys, strict=True):
                    _over_pixels(_pixels(grad_z), _pixels(y), grad_pointwise[b])
    grad_xs, grad_params = depthwise.backward(grad_ys, xs, params, plan, need_x, need_depthwise, need_affine)
    return grad_xs, grad_params, grad_pointwise


def _grad_z(grads: list[Tensor], zs: list[Tensor | None], tables: Tensor) -> tuple[Tensor, ...]:
    """dL/dz of every branch, from dL/dy of the norm that follows."""
    n, c, h, w = grads[0].shape
    dense = tuple(g.contiguous(memory_format=torch.channels_last) for g in grads)
    # Absent tensors are never touched: the gradient stands in for them.
    read = tuple(
        g if z is None else z.contiguous(memory_format=torch.channels_last) for g, z in zip(dense, zs, strict=True)
    )
    grad_zs = tuple(empty_channels_last(g, g.shape) for g in dense)
    blocks = tile(n * h * w, c, _ELEMENTS)
    if grads[0].numel():
        acc = accumulator(grads[0].dtype)
        tables = tables.to(torch.float64 if acc == tl.float64 else torch.float32).contiguous()
        _grad_z_kernel[grid(n * h * w, c, blocks)](
            dense, read, tables, grad_zs, n * h * w, c, tuple(z is not None for z in zs), acc, *blocks
        )
    return grad_zs


def _of_branches(
    branches: list[int], xs: list[Tensor], params: Tensor, plan: DepthwisePlan
) -> tuple[list[Tensor], Tensor, DepthwisePlan]:
    """The arguments of `multi_depthwise` for some branches."""
    if len(branches) == len(plan.kernels):
        return xs, params, plan
    own = branches if plan.inputs > 1 else [0]
    rows = params.split(plan.rows)
    kept = [rows[b] for b in branches] + [_rows(row, own) for row in rows[len(plan.kernels) :]]
    kernels, dilations = (tuple(values[b] for b in branches) for values in (plan.kernels, plan.dilations))
    return [xs[i] for i in own], torch.cat(kept), plan._replace(kernels=kernels, dilations=dilations, inputs=len(own))


def _rows(table: Tensor, rows: list[int]) -> Tensor:
    """Some rows: an index of numbers on the host would have the host wait for the GPU."""
    return table if len(rows) == len(table) else torch.stack([table[row] for row in rows])


def _pixels(image: Tensor) -> Tensor:
    """(pixels, channels), a view of channels_last memory."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _like_image(pixels: Tensor, image: Tensor) -> Tensor:
    n, c, h, w = image.shape
    return pixels.view(n, h, w, c).permute(0, 3, 1, 2)


def _over_pixels(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a^T b, as products over chunks that are added up in a fixed order."""
    whole = len(a) // _CHUNK * _CHUNK
    chunks = (t[:whole].view(-1, _CHUNK, t.shape[1]) for t in (a, b))
    left, right = (t[whole:][None] for t in (a, b))
    parts = [_product(x, y, out.dtype) for x, y in (tuple(chunks), (left, right)) if x.numel()]
    if parts:
        torch.sum(parts[0] if len(parts) == 1 else torch.cat(parts), 0, out=out)
    else:
        out.zero_()


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a^T b of every chunk, added up and returned in `dtype`."""
    if not a.is_cpu and a.dtype != dtype:
        return torch.bmm(a.mT, b, out_dtype=dtype)
    return torch.bmm(a.to(dtype).mT, b.to(dtype))
