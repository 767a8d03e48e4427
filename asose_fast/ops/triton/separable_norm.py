"""`separable_norm` on GPUs: the kernels of a mixed layer, for one chain.

A convolution and the product that follows are one launch, unless there are many channels or taps. Depthwise outputs are
kept for backward: to compute them again is a launch, and reads as much. The products take the statistics for the norms
along, and backward they make dL/dz of what the norms were handed back, which is stored nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import dense, empty_channels_last
from asose_fast.ops.library import present
from asose_fast.ops.reference import separable_norm as reference
from asose_fast.ops.separable_norm_call import Backward, Forward, Gradients, rows_of_params
from asose_fast.ops.triton import chain_weights, depthwise_product, norm_lerp, products, stage
from asose_fast.ops.triton.blend import Blend
from asose_fast.ops.triton.merging import Measured
from asose_fast.ops.triton.one_norm import from_running
from asose_fast.ops.triton.running import known

DTYPES = FLOATS
_FORMAT = torch.channels_last


def keeps(call: Forward) -> bool:
    """Whether `forward` keeps depthwise outputs and params, which it does unless it is left to plain PyTorch."""
    running = call.running_mean
    # A norm that comes twice has statistics that depend on the order.
    once = len(set(map(id, running))) == len(running)
    return once and call.x.numel() > 0 and known([*running, *call.running_var, *call.counts], call.x.device)


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and `zs`, `tables`, `ys` and `params` of `Backward`."""
    if not keeps(call):
        return reference.forward(call)
    x, norms, stages, shape = dense(call.x), call.norms, len(call.depthwise), call.out_shape
    zs, ys = (empty_channels_last(x, (stages * shape[0], *shape[1:])) for _ in range(2))
    tables = x.new_empty(stages, 2, shape[1], dtype=torch.float64)
    packed = chain_weights.pack(call.depthwise, accumulation_dtype(x.dtype))
    params, z = packed.split(rows_of_params(call.depthwise)), x
    into = zip(ys.split(shape[0]), zs.split(shape[0]), strict=True)
    for s, (plan, norm, (y, z_of_stage)) in enumerate(zip(_plans(call), norms, into, strict=True)):
        matrix, of_norm = _matrix(call.pointwise[s]), (tables[s], params[s + 1][-2:] if s + 1 < stages else None)
        measured = Measured(norm, *of_norm) if norm.of_batch else None
        if depthwise_product.takes(z, plan):
            depthwise_product.forward([z], params[s], plan, matrix, measured, [y], [z_of_stage])
        else:
            registry.select("multi_depthwise", z, plan).forward([z], params[s], plan, [y])
            products.forward([y], matrix, measured, [z_of_stage])
        z = z_of_stage
        if measured is None:
            from_running(norm, *of_norm)
    shortcut = x if call.shortcut is None else dense(call.shortcut)
    y = norm_lerp.blended(z, shortcut, call.gain, norms[-1], tables[-1], call.counts, _FORMAT)
    return y, zs, tables, ys, packed


def backward(call: Backward) -> Gradients:
    """The gradients (`asose_fast.ops.separable_norm_call.Gradients`)."""
    if not call.ys.numel():
        return reference.backward(call)
    x, grad, tables, gain, stages = dense(call.x), dense(call.grad), call.tables, call.gain, len(call.depthwise)
    zs, tables, needs, plans = dense(call.zs).split(grad.shape[0]), tables.contiguous(), _needs(call), _plans(call)
    need_gain = gain is not None and call.need_gain
    maps, affine = norm_lerp.maps_of(
        grad, zs[-1], x if call.shortcut is None else dense(call.shortcut), gain, call.gamma[-1], call.beta[-1],
        tables[-1], call.of_batch[-1], needs[-1], need_gain, call.need_affine[-1], _FORMAT,
    )  # fmt: skip
    of_affine, of_depthwise, of_pointwise = [affine], list[Tensor](), list[Tensor]()
    ys, params = dense(call.ys).split(grad.shape[0]), call.params.split(rows_of_params(call.depthwise))
    alive = None if gain is None else gain.reshape(1)
    back, table = [grad], maps[None, :4]
    last = needs.index(True) if True in needs else stages
    hand_on, (of_shortcut, of_gain) = _blend(call, maps, last < stages)
    for s in reversed(range(last, stages)):
        hands = needs[s - 1] if s else call.need_x
        mean, rstd = tables[s - 1][:, None] if s else (None, None)
        gamma = call.gamma[s - 1] if s else None
        back, depthwise, pointwise, s0, s1, table = stage.backward(
            [*back], [zs[s] if call.of_batch[s] else None], table, [zs[s - 1] if s else x], params[s],
            _matrix(call.pointwise[s]), [call.depthwise[s]], [call.pointwise[s]], mean, rstd,
            None if gamma is None else gamma[None], alive, plans[s], [hands], [call.need_depthwise[s]],
            [call.need_pointwise[s]], s > 0 and (call.need_affine[s - 1] or (hands and call.of_batch[s - 1])),
            [ys[s]], hand_on if s == last else None,
        )  # fmt: skip
        of_depthwise[:0], of_pointwise[:0] = depthwise, pointwise
        if s and call.need_affine[s - 1]:
            rows = zip((call.gamma[s - 1], call.beta[s - 1]), (s1, s0), strict=True)
            of_affine.insert(0, [None if t is None else found[0].to(t.dtype) for t, found in rows])
    of_x = back[0] if call.need_x else None
    of_gamma, of_beta = (present(of_norms) for of_norms in zip(*of_affine, strict=True))
    of_x, of_shortcut, of_gain = (grad.new_empty(0) if t is None else t for t in (of_x, of_shortcut, of_gain))
    return Gradients(of_x, of_shortcut, of_gain, of_depthwise, of_pointwise, of_gamma, of_beta)


def _plans(call: Forward | Backward) -> list[DepthwisePlan]:
    return [
        DepthwisePlan((weight.shape[-1],), (dilation,), 1, 1 if s else call.stride, True, s > 0).within(call.x)
        for s, (weight, dilation) in enumerate(zip(call.depthwise, call.dilations, strict=True))
    ]


def _matrix(pointwise: Tensor) -> Tensor:
    return pointwise.reshape(1, *pointwise.shape[:2])


def _needs(call: Backward) -> list[bool]:
    """Of which stages the gradients of the outputs are needed: if of one, of all after it."""
    needs, before = [], call.need_x
    for depthwise, pointwise, affine in zip(call.need_depthwise, call.need_pointwise, call.need_affine, strict=True):
        needs.append(before or depthwise or pointwise)
        before = needs[-1] or affine
    return needs


def _blend(
    call: Backward, maps: Tensor, joins: bool
) -> tuple[Callable[[list[Tensor]], Blend] | None, tuple[Tensor | None, Tensor | None]]:
    """The gradients of the shortcut and of the gain, and what writes them in the last launch of the stages.

    Where x is the shortcut, its gradient goes to that of x in place. Where no stage `joins`, or the gain's
    gradient alone is wanted, a launch of its own writes them.
    """
    if call.gain is None:
        return None, (None, None)
    grad, gain, x_is_shortcut = dense(call.grad), call.gain, call.shortcut is None
    of_gain = torch.empty_like(gain) if call.need_gain else None
    separate = torch.empty_like(grad) if call.need_shortcut and not x_is_shortcut else None
    if joins and (call.need_x if x_is_shortcut else separate is not None):

        def blend(of_inputs: list[Tensor]) -> Blend:
            to = of_inputs[0] if separate is None else separate
            return Blend(grad, gain, maps, of_gain, to, x_is_shortcut)

        return blend, (separate, of_gain)
    if separate is not None or of_gain is not None:
        norm_lerp.hand_back(grad, gain, maps, of_gain, separate, None, None, False, _FORMAT)
    return None, (separate, of_gain)
