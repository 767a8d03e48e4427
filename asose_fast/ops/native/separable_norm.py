"""`separable_norm` on the compiled kernels (csrc/separable_norm.h): a call a direction, by a plan made once a shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, addresses, memory, one_norm
from asose_fast.ops.native.launches import launch
from asose_fast.ops.native.multi_depthwise import DTYPES
from asose_fast.ops.native.script import NOTHING, ROOM, Bound, Launch, Place, Places
from asose_fast.ops.native.strided_weights import kept_order, known, strided
from asose_fast.ops.reference import separable_norm as reference
from asose_fast.ops.separable_norm_call import Backward, Forward, Gradients, none_kept
from asose_fast.ops.separable_norm_call import strided as shape_of

__all__ = ["DTYPES", "backward", "bound", "forward"]


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and `zs`, `tables`, `ys` and `params` of `Backward`, the last two empty."""
    norms = [norm for norm in map(one_norm.readable, call.norms) if norm is not None]
    if not call.x.numel() or len(norms) < len(call.depthwise):
        return reference.forward(call)
    x, shape, stages = dense(call.x), shape_of(call.x.shape, call.stride), len(call.depthwise)
    plan = _plan_of(x, call)
    y, zs = memory.empty(shape, x), memory.empty((stages * shape[0], *shape[1:]), x)
    tables = torch.empty(stages, 2, x.shape[1], dtype=torch.float64)
    shortcut = x if call.shortcut is None else dense(call.shortcut)
    of_tables, dtypes, of_batch, eps, momenta = one_norm.of_several(norms)
    held, room = memory.workspace(plan.forward_bytes)
    launch(
        plan.kernels.forward, strided(known(call.depthwise)), strided(known(call.pointwise)), of_tables, dtypes,
        of_batch, eps, momenta,
        [*addresses((x, shortcut, call.gain, tables, y)), *room, *_rows(zs, stages)],
    )  # fmt: skip
    del held
    return y, zs, tables, *none_kept(x)


def backward(call: Backward) -> Gradients:
    """The gradients (`asose_fast.ops.separable_norm_call.Gradients`)."""
    if not call.x.numel():
        return reference.backward(call)
    x, grad, zs, tables = dense(call.x), dense(call.grad), dense(call.zs), call.tables.contiguous()
    plan = _plan_of(x, call)
    grad_x = memory.empty(x.shape, x) if call.need_x else None
    grad_shortcut = memory.empty(grad.shape, grad) if call.shortcut is not None and call.need_shortcut else None
    grad_gain = torch.empty_like(call.gain) if call.gain is not None and call.need_gain else None
    shortcut = x if call.shortcut is None else dense(call.shortcut)
    dead = call.gain is not None and call.gain.item() == 0
    weights, needs = [known(call.depthwise), known(call.pointwise)], [call.need_depthwise, call.need_pointwise]
    new = torch.zeros_like if dead else torch.empty_like
    found = [
        [new(w) if need else None for w, need in zip(*of_kind, strict=True)]
        for of_kind in zip(weights, needs, strict=True)
    ]
    if dead and grad_x is not None:
        grad_x.zero_()
    affine = [one_norm.Gradients(*norm) for norm in zip(call.gamma, call.beta, call.need_affine, strict=True)]
    of_affine = [norm.arguments() for norm in affine]
    held, room = memory.workspace(plan.backward_bytes)
    tensors = grad, x, shortcut, call.gain, tables, grad_x, grad_shortcut, grad_gain
    launch(
        plan.kernels.backward, *map(strided, weights), *map(strided, weights, found),
        [t for tables, _ in of_affine for t in tables], [d for _, dtypes in of_affine for d in dtypes], call.of_batch,
        call.gain is not None and call.shortcut is None,
        [*addresses(tensors), *room, *_rows(zs, len(call.depthwise))],
    )  # fmt: skip
    del held
    of_weights = [
        [g.to(w.dtype) for g, w in zip(gs, ws, strict=True) if g is not None]
        for gs, ws in zip(found, (call.depthwise, call.pointwise), strict=True)
    ]
    of_norms = [norm.found(grad) for norm in affine]
    of_gamma, of_beta = (
        [found[i] for found, t, need in zip(of_norms, tensors, call.need_affine, strict=True) if need and t is not None]
        for i, tensors in enumerate((call.gamma, call.beta))
    )
    of_x, of_shortcut, of_gain = (grad.new_empty(0) if t is None else t for t in (grad_x, grad_shortcut, grad_gain))
    of_depthwise, of_pointwise = of_weights
    return Gradients(of_x, of_shortcut, of_gain, of_depthwise, of_pointwise, of_gamma, of_beta)


def bound(call: Forward) -> Bound | None:
    """The call as part of a script; None where parameters and gradients are not as the kernels read and write them."""
    norms, weights, dtype = call.norms, [*call.depthwise, *call.pointwise], call.x.dtype
    fits = call.x.numel() and all(w.dtype in DTYPES and kept_order(w) for w in weights)
    plain = all(one_norm.readable(norm) is norm for norm in norms)
    return _Bound(call) if fits and plain and dtype == accumulation_dtype(dtype) else None


class _Bound(Bound):
    """In a script."""

    def __init__(self, call: Forward) -> None:
        x, norms = call.x, call.norms
        self._stages, self._gain, self._of_batch = len(norms), call.gain, call.of_batch
        self._own = call.gain is not None and call.shortcut is None
        self._weights = call.depthwise, call.pointwise
        self._norms = one_norm.of_several(norms)
        self._affine = [[Place(0, address(t)) for t in (norm.gamma, norm.beta)] for norm in norms]
        sides = tuple([w.shape[-1] for w in call.depthwise])
        self.plan = functools.partial(_plan, x.dtype, x.shape, sides, tuple(call.dilations), call.stride)
        self.inputs, self.y = 1 + (call.shortcut is not None), shape_of(x.shape, call.stride)
        images, *rest = self.y
        zs, tables = (self._stages * images, *rest), (self._stages, 2, x.shape[1])
        self._z_bytes = math.prod(self.y) * x.itemsize
        self.saved = ((zs, x.dtype), (tables, torch.float64))

    def forward(self, values: Sequence[Place], y: Place, saved: Sequence[Place], threads: int) -> Launch:
        """As `forward` above."""
        x, shortcut = (*values, values[0])[:2]
        zs, tables = saved
        places = Places((x, shortcut, Place(0, address(self._gain)), tables, y, ROOM, *self._rows(zs)))
        return self.plan(threads).kernels.forward, (*map(strided, self._weights), *self._norms, places)

    def backward(
        self, grad: Place, values: Sequence[Place], saved: Sequence[Place], to: Sequence[Place], threads: int
    ) -> Launch:
        """As `backward` above, where the gain is not 0."""
        (x, shortcut), (zs, tables) = (*values, values[0])[:2], saved
        _, of_x, of_shortcut, of_gain, *of_stages = to
        rows = [of_stages[i : i + self._stages] for i in range(0, 4 * self._stages, self._stages)]
        of_depthwise, of_pointwise, of_gamma, of_beta = rows
        of_weights = [_placed(*pair) for pair in zip(self._weights, (of_depthwise, of_pointwise), strict=True)]
        affine = [
            place for norm in zip(self._affine, of_gamma, of_beta, strict=True) for place in (*norm[0], *norm[1:])
        ]
        codes = [code for s in range(self._stages) for code in self._norms[1][3 * s + 1 : 3 * s + 3]]
        places = Places(
            (
                grad,
                x,
                shortcut,
                Place(0, address(self._gain)),
                tables,
                of_x,
                of_shortcut,
                of_gain,
                ROOM,
                *self._rows(zs),
            )
        )
        return self.plan(threads).kernels.backward, (
            *map(strided, self._weights), *of_weights, Places(affine), codes, self._of_batch, self._own, places,
        )  # fmt: skip

    def live(self) -> bool:
        """Where the gain is 0, gradients are 0 and not computed."""
        return self._gain is None or self._gain.item() != 0

    def _rows(self, zs: Place) -> list[Place]:
        """The outputs of the stages."""
        return [zs._replace(offset=zs.offset + s * self._z_bytes) for s in range(self._stages)]


def _placed(weights: Sequence[Tensor], places: Sequence[Place]) -> Places:
    """`strided` of the gradients of weights at these places."""
    found: list[Place] = []
    for w, place in zip(weights, places, strict=True):
        kind, _, *rest = strided([w], [None if place == NOTHING else w])
        found += [Place(0, kind), place, *[Place(0, value) for value in rest]]
    return Places(found)


def _rows(zs: Tensor, stages: int) -> list[int]:
    """The addresses of the outputs of the stages."""
    base, step = address(zs), zs.nbytes // stages
    return [base + s * step for s in range(stages)]


class _Plan(NamedTuple):
    """What calls of a shape have in common."""

    kernels: Any
    forward_bytes: int
    """Of the workspace; those of `backward_bytes` are for a backward pass."""
    backward_bytes: int


def _plan_of(x: Tensor, call: Forward | Backward) -> _Plan:
    kernels = tuple([w.shape[-1] for w in call.depthwise])
    return _plan(x.dtype, x.shape, kernels, tuple(call.dilations), call.stride, torch.get_num_threads())


@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype,
    shape: torch.Size,
    sides: Sequence[int],
    dilations: Sequence[int],
    stride: int,
    threads: int,
) -> _Plan:
    # A dilation as long as an image leaves the middle tap alone, as any longer one does.
    longest = max(shape[2:])
    within = [min(dilation, longest) for dilation in dilations]
    kernels = _native.kernels("cpu").SeparableNormPlan(DTYPE_CODES[dtype], shape, sides, within, stride, threads)
    return _Plan(kernels, kernels.forward_bytes, kernels.backward_bytes)
