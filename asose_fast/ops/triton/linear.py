# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`linear` in Triton: a launch forward, and one for all gradients."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.native.linear import unfit
from asose_fast.ops.triton.dots import LEAST, Cut, types_of, warps_of
from asose_fast.ops.triton.tiles import launched

__all__ = ["DTYPES", "backward", "forward", "unfit"]

DTYPES = FLOATS

_ROWS = 32
"""Of a tile at most."""
_DEPTH = 128
"""Of what is added up at once at most, in 16 bits, half as many in more. There are few programs, which wait for memory
once a step: so steps are long."""


@triton.jit
def _product(
    a: tl.tensor,
    b: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    rows: tl.int64,
    columns: tl.int64,
    depth: tl.int64,
    a_row: tl.int64,
    a_step: tl.int64,
    b_step: tl.int64,
    b_column: tl.int64,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    # sum_k a[row, k] b[k, column], of tensors that lie as the four numbers say.
    total = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    for start in tl.range(0, depth, BLOCK_K, num_stages=1):
        k = start + tl.arange(0, BLOCK_K).to(tl.int64)
        there = (row < rows)[:, None] & (k < depth)[None, :]
        u = tl.load(a + (row * a_row)[:, None] + (k * a_step)[None, :], mask=there, other=0.0)
        there = (k < depth)[:, None] & (column < columns)[None, :]
        v = tl.load(b + (k * b_step)[:, None] + (column * b_column)[None, :], mask=there, other=0.0)
        total = tl.dot(u.to(TYPE), v.to(TYPE), total, input_precision=PRECISION, out_dtype=ACC)
    return total


@triton.jit
def _store(
    y: tl.tensor, total: tl.tensor, row: tl.tensor, column: tl.tensor, rows: tl.int64, columns: tl.int64
) -> None:
    there = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(y + (row * columns)[:, None] + column[None, :], total.to(y.dtype.element_ty), mask=there)


@launched
@triton.jit
def _linear_fwd_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,  # or None
    y: tl.tensor,
    images: tl.int64,
    features: tl.int64,
    outputs: tl.int64,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    image = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    out = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = _product(
        x, weight, image, out, images, outputs, features, features, 1, 1, features, PRECISION, ACC, TYPE, BLOCK_R,
        BLOCK_C, BLOCK_K,
    )  # fmt: skip
    if bias is not None:
        total += tl.load(bias + out, mask=out < outputs, other=0.0).to(ACC)[None, :]
    _store(y, total, image, out, images, outputs)


@launched
@triton.jit
def _linear_bwd_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    grad_x: tl.tensor,  # or None, like the next ones
    grad_weight: tl.tensor,
    grad_bias: tl.tensor,
    images: tl.int64,
    features: tl.int64,
    outputs: tl.int64,
    tasks: tl.int32,  # of the gradient of x; those after them are of weight and bias
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OUTPUTS: tl.constexpr,  # that are added up at once, and images
    IMAGES: tl.constexpr,
) -> None:
    task, group = tl.program_id(0), tl.program_id(1)
    feature = group.to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    if task < tasks:
        image = task.to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
        if grad_x is not None:
            total = _product(
                grad, weight, image, feature, images, features, outputs, outputs, 1, features, 1, PRECISION, ACC, TYPE,
                BLOCK_R, BLOCK_C, OUTPUTS,
            )  # fmt: skip
            _store(grad_x, total, image, feature, images, features)
    else:
        out = (task - tasks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
        if grad_weight is not None:
            total = _product(
                grad, x, out, feature, outputs, features, images, 1, outputs, features, 1, PRECISION, ACC, TYPE,
                BLOCK_R, BLOCK_C, IMAGES,
            )  # fmt: skip
            _store(grad_weight, total, out, feature, outputs, features)
        if grad_bias is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
            if group == 0:
                of_bias = tl.zeros([BLOCK_R], ACC)
                for start in tl.range(0, images, BLOCK_C, num_stages=1):
                    image = start + tl.arange(0, BLOCK_C).to(tl.int64)
                    there = (image < images)[:, None] & (out < outputs)[None, :]
                    d = tl.load(grad + (image * outputs)[:, None] + out[None, :], mask=there, other=0.0)
                    of_bias += tl.sum(d.to(ACC), 0)
                tl.store(grad_bias + out, of_bias.to(grad_bias.dtype.element_ty), mask=out < outputs)


def _depth(count: int, x: Tensor) -> int:
    most = _DEPTH if x.element_size() < 4 else _DEPTH // 2
    length: int = triton.next_power_of_2(max(count, 1))
    return max(min(length, most), LEAST)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y."""
    x, weight, bias = x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()
    (images, features), outputs = x.shape, len(weight)
    y = x.new_empty(images, outputs)
    if y.numel():
        cut = Cut.of(images, outputs, _ROWS)
        _linear_fwd_kernel[cut.tasks, cut.groups(outputs)](
            x, weight, bias, y, images, features, outputs, *types_of(x), *cut.blocks[:2], _depth(features, x),
            num_warps=warps_of(x),
        )  # fmt: skip
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, empty where they are not needed."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    (images, features), outputs = x.shape, len(weight)
    shapes = (x.shape, need_x), (weight.shape, need_weight), (weight.shape[:1], need_bias)
    found = [grad.new_empty(shape) if need else None for shape, need in shapes]
    cut = Cut.of(max(images, outputs), features, _ROWS)
    tasks, of_weight = (-(-rows // cut.blocks[0]) * need for rows, need in (
        (images, need_x), (outputs, need_weight or need_bias)
    ))  # fmt: skip
    if tasks + of_weight:
        _linear_bwd_kernel[tasks + of_weight, max(cut.groups(features), 1)](
            grad, x, weight, *found, images, features, outputs, tasks, *types_of(x), *cut.blocks[:2],
            _depth(outputs, x), _depth(images, x), num_warps=warps_of(x),
        )  # fmt: skip
    of_x, of_w, of_b = (grad.new_empty(0) if t is None else t for t in found)
    return of_x, of_w, of_b
