"""The weighted sum of a mixed operation's outputs with the last BatchNorm of every branch folded in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autograd import gradients, save, stand_in, transformed, twice_differentiable
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.ops.checks import (
    as_list,
    check_all_like,
    check_channels,
    check_length,
    check_like,
    check_tensor,
    check_zs,
)
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import memory_format
from asose_fast.ops.library import define
from asose_fast.ops.mixed_sum import MAX_INPUTS
from asose_fast.ops.norm_tables import norm_tables
from asose_fast.ops.norms import (
    affine_parameters,
    check_count,
    check_norm,
    gradients_of_affine,
    measured,
    uses_batch,
)
from asose_fast.ops.reference.mixed_norm_sum import reference
from asose_fast.ops.reference.pool_pair import maxima

registry.register(
    "mixed_norm_sum",
    {
        "reference": "asose_fast.ops.reference.mixed_norm_sum",
        "cpu": "asose_fast.ops.native.mixed_norm_sum",
        "triton": "asose_fast.ops.triton.mixed_norm_sum",
    },
)


def mixed_norm_sum(
    zs: Sequence[Tensor],
    weights: Tensor,
    norms: Sequence[nn.BatchNorm2d],
    *,
    plain: Sequence[Tensor] = (),
    plain_weights: Tensor | None = None,
) -> Tensor:
    """Weighted sum of K batch-normalised tensors and J plain ones, without the normalised tensors ever being made.

        y = sum_k w_k BN_k(z_k) + sum_j v_j x_j
          = sum_k a_kc (z_k - mean_kc) + sum_k w_k beta_kc + sum_j v_j x_j        a_kc = w_k gamma_kc r_kc

    where r = 1 / sqrt(var + eps). Backward, with xhat = r (z - mean), S0_c = sum g, S1_kc = sum g xhat_k and M = N H W
    (Ioffe and Szegedy, 2015; folding a normalisation into its neighbours: Jung et al., arXiv 1807.01702):

        dL/dw_k = sum_c gamma S1 + beta S0        dgamma = w S1        dbeta = w S0        dL/dv_j = <g, x_j>
        dL/dz_k = a_kc (g - (S0 + xhat S1) / M), or a_kc g with running statistics        dL/dx_j = v_j g

    Each norm does what its module would: in training mode it normalises by the statistics of the batch and updates its
    running ones, in eval mode it uses those. A call makes one pass over memory for the statistics and one for the sum;
    backward makes one for S0, S1 and dL/dv and one for the gradients of zs and plain. What autograd does not ask for
    is not computed. Where w_k is exactly 0, y and dL/dz_k do not depend on z_k, so that its infinities and NaNs stay
    out; dL/dw_k does. Sums are kept in float32 (float64 for float64 inputs), over longer stretches in float64,
    and do not depend on the thread count.

    Args:
        zs: K tensors (N, C, H, W), 1 <= K and K + J <= 128, of one shape, dtype (float16, bfloat16, float32, float64)
            and device. Fastest in channels_last; the format of the first is that of the computation, and tensors in
            another are copied into it. Under autocast the dtypes may differ: the widest is used.
        weights: (K,) float32 or float64.
        norms: K modules; which are in training mode, affine or without running statistics may differ between them.
        plain: J tensors like zs that are added as they are (skip connection, residual input).
        plain_weights: (J,) float32 or float64; None for 1.

    Returns:
        y in the shape and dtype of zs, channels_last where the first z is, else contiguous.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or fewer than two values a channel
            where a norm needs the statistics of the batch.
    """
    zs, norms, plain = (
        as_list(f"mixed_norm_sum: {name}", values) for name, values in (("zs", zs), ("norms", norms), ("plain", plain))
    )
    check_tensor("mixed_norm_sum: weights", weights)
    if plain_weights is None:
        plain_weights = weights.new_ones(len(plain))
    _check(zs, weights, norms, plain, plain_weights)
    xs = _to_widest(zs + plain)
    if transformed():
        return reference(xs[: len(zs)], weights, norms, xs[len(zs) :], plain_weights)
    acc = accumulation_dtype(xs[0].dtype)
    batch = [uses_batch(norm) for norm in norms]
    check_count(batch, xs[0].shape)
    means, variances = ([table] for table in batch_statistics(xs[: len(zs)])) if any(batch) else ([], [])
    mean, rstd = norm_tables(norms, batch, means, variances, xs[0].numel() // xs[0].size(1), acc)
    gamma, beta = affine_parameters(norms)
    y: Tensor = _MixedNormSum.apply(batch, weights.to(acc), plain_weights.to(acc), gamma, beta, mean, rstd, *xs)
    return y


def _check(
    zs: list[Tensor], weights: Tensor, norms: Sequence[nn.BatchNorm2d], plain: list[Tensor], plain_weights: Tensor
) -> None:
    if not zs or len(zs) + len(plain) > MAX_INPUTS:
        raise ValueError(
            f"mixed_norm_sum: zs must hold at least 1 tensor, with plain at most {MAX_INPUTS}, "
            f"got {len(zs)} and {len(plain)}"
        )
    first = zs[0]
    named = [(f"zs[{k}]", z) for k, z in enumerate(zs)] + [(f"plain[{j}]", x) for j, x in enumerate(plain)]
    for name, x in named:
        check_tensor(f"mixed_norm_sum: {name}", x)
        if x.dim() != 4:
            raise ValueError(f"mixed_norm_sum: {name} must be (N, C, H, W), got shape {tuple(x.shape)}")
        if x.shape != first.shape:
            raise ValueError(f"mixed_norm_sum: {name} has shape {tuple(x.shape)}, zs[0] has {tuple(first.shape)}")
        if x.device != first.device:
            raise ValueError(f"mixed_norm_sum: {name} is on {x.device}, zs[0] on {first.device}")
        if x.dtype not in FLOATS:
            raise TypeError(f"mixed_norm_sum: {name} must be float16, bfloat16, float32 or float64, got {x.dtype}")
    for name, w, xs in (("weights", weights, zs), ("plain_weights", plain_weights, plain)):
        check_tensor(f"mixed_norm_sum: {name}", w)
        if w.shape != (len(xs),):
            raise ValueError(f"mixed_norm_sum: {name} must be ({len(xs)},), one a tensor, got {tuple(w.shape)}")
        if w.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"mixed_norm_sum: {name} must be float32 or float64, got {w.dtype}")
        if w.device != first.device:
            raise ValueError(f"mixed_norm_sum: {name} are on {w.device}, zs on {first.device}")
    if first.size(1) == 0:
        raise ValueError(f"mixed_norm_sum: zs must have channels, got shape {tuple(first.shape)}")
    if len(norms) != len(zs):
        raise ValueError(f"mixed_norm_sum: norms must hold one module a z, got {len(norms)} for {len(zs)} zs")
    for k, norm in enumerate(norms):
        check_norm(f"mixed_norm_sum: norms[{k}]", norm, first, "zs have")


def _to_widest(xs: list[Tensor]) -> list[Tensor]:
    if all(x.dtype == xs[0].dtype for x in xs):
        return xs
    widest = xs[0].dtype
    for x in xs:
        widest = torch.promote_types(widest, x.dtype)
    if not torch.is_autocast_enabled(xs[0].device.type):
        dtypes = ", ".join(sorted({str(x.dtype) for x in xs}))
        raise TypeError(f"mixed_norm_sum: zs and plain must have one dtype outside autocast, got {dtypes}")
    return [x.to(widest) for x in xs]


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, plain_weights, _, gamma, beta, mean, rstd, *saved = ctx.saved_tensors
    left = iter(saved)
    xs = [next(left) if read else stand_in(grad) for read in ctx.read]

    def plain(
        batch: list[bool],
        weights: Tensor,
        plain_weights: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        rstd: Tensor,
        *xs: Tensor,
    ) -> Tensor:
        norms = measured(mean, rstd, gamma, beta, batch)
        return reference(xs[: len(mean)], weights, norms, xs[len(mean) :], plain_weights)

    return gradients(ctx, plain, (ctx.batch, weights, plain_weights, gamma, beta, mean, rstd, *xs), [grad])


class _MixedNormSum(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, batch, weights, plain_weights, gamma, beta, mean, rstd, *xs = arguments
        _, need_weights, need_plain_weights, need_gamma, need_beta, _, _, *ctx.need_x = ctx.needs_input_grad
        ctx.batch = batch
        ctx.read = [
            need_weights or need_gamma or (in_batch and need) for in_batch, need in zip(batch, ctx.need_x, strict=False)
        ] + [need_plain_weights] * len(plain_weights)
        ctx.need_sums = need_beta or any(ctx.read)
        ctx.channels_last = memory_format(xs[0]) == torch.channels_last
        all_weights = torch.cat([weights, plain_weights])
        saved = [x for x, read in zip(xs, ctx.read, strict=True) if read]
        save(ctx, weights, plain_weights, all_weights, gamma, beta, mean, rstd, *saved)
        y: Tensor = mixed_norm_sum_fwd(xs, all_weights, gamma, beta, mean, rstd, None, 0)
        return y

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, plain_weights, weights, gamma, beta, mean, rstd, *xs = ctx.saved_tensors
        _, need_weights, need_plain_weights, need_gamma, need_beta, *_ = ctx.needs_input_grad
        wants_weights = need_weights or (need_plain_weights and len(plain_weights) > 0)
        grad_xs, of_terms, sums, _ = mixed_norm_sum_bwd(
            grad, xs, weights, gamma, beta, mean, rstd, ctx.batch, ctx.read, ctx.need_x, wants_weights, ctx.need_sums,
            ctx.channels_last, None, 0,
        )  # fmt: skip
        wanted = iter(grad_xs)
        count = len(mean)
        grad_weights = grad_plain_weights = grad_gamma = grad_beta = None
        if wants_weights:
            grad_weights = of_terms[:count] if need_weights else None
            grad_plain_weights = of_terms[count:] if need_plain_weights else None
        elif need_plain_weights:
            grad_plain_weights = torch.empty_like(plain_weights)  # of no terms, for which there are no sums
        if need_gamma or need_beta:
            of_gamma, of_beta = gradients_of_affine(sums, weights[:count, None])
            grad_gamma = of_gamma.to(gamma.dtype) if need_gamma else None
            grad_beta = of_beta.to(beta.dtype) if need_beta else None
        return (
            None, grad_weights, grad_plain_weights, grad_gamma, grad_beta, None, None,
            *(next(wanted) if need else None for need in ctx.need_x),
        )  # fmt: skip


class _Forward(NamedTuple):
    """The arguments of the registered operator."""

    xs: list[Tensor]
    weights: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    mean: Tensor
    rstd: Tensor
    places: Tensor | None
    """Where the 3x3 windows of xs[pooled], of stride 1, have their maxima, as `pool_pair_fwd` gives it: the maxima are
    summed up in its place. They are trusted to lie within x. None: there is no such term."""
    pooled: int


def _fwd(*args: Any) -> Any:
    call = _Forward(*args)
    backend = registry.select("mixed_norm_sum", call.xs[0])
    if call.places is None:
        return backend.forward(*call[:-2])
    if hasattr(backend, "READS_MAXIMA"):
        return backend.forward(*call)
    return backend.forward(_with_maxima(call.xs, call.pooled, call.places), *call[1:-2])


def _with_maxima(xs: list[Tensor], pooled: int, places: Tensor) -> list[Tensor]:
    return [*xs[:pooled], maxima(xs[pooled], places), *xs[pooled + 1 :]]


def _check_places(where: str, x: Tensor, places: Tensor | None, pooled: int, count: int) -> None:
    if places is not None:
        check_like(f"{where}: places", places, x.shape, torch.uint8)
        if not 0 <= pooled < count:
            raise ValueError(f"{where}: pooled must be 0 to {count - 1}, got {pooled}")


def _check_tables(where: str, x: Tensor, weights: Tensor, count: int, **tables: Tensor | None) -> None:
    """The tables of norms, one row for each of the first inputs; the first is that of the means."""
    acc = accumulation_dtype(x.dtype)
    if weights.shape != (count,) or weights.dtype is not acc:
        check_like(f"{where}: weights", weights, (count,), acc)
    mean = tables["mean"]
    assert mean is not None
    if mean.dim() != 2 or mean.shape[0] > count:
        raise ValueError(f"{where}: mean must have a row for each of at most {count} norms, got {tuple(mean.shape)}")
    shape = mean.shape[0], x.shape[1]
    for name, table in tables.items():
        if table is not None and (table.shape != shape or table.dtype not in FLOATS):
            check_like(f"{where}: {name}", table, shape, *FLOATS)


def _check_fwd(*args: Any) -> None:
    xs, weights, gamma, beta, mean, rstd, places, pooled = _Forward(*args)
    check_zs("mixed_norm_sum_fwd: xs", xs, MAX_INPUTS)
    _check_places("mixed_norm_sum_fwd", xs[0], places, pooled, len(xs))
    _check_tables("mixed_norm_sum_fwd", xs[0], weights, len(xs), mean=mean, rstd=rstd, gamma=gamma, beta=beta)


def _fwd_fake(xs: list[Tensor], *_: object) -> Tensor:
    return torch.empty_like(xs[0], memory_format=memory_format(xs[0]))


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grad: Tensor
    xs: list[Tensor]
    weights: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    mean: Tensor
    rstd: Tensor
    batch: list[bool]
    read: list[bool]
    need_x: list[bool]
    need_weights: bool
    need_sums: bool
    channels_last: bool
    places: Tensor | None
    """As forward; of that term no gradient is handed back."""
    pooled: int


def _bwd(*args: Any) -> Any:
    call = _Backward(*args)
    backend = registry.select("mixed_norm_sum", call.grad)
    if call.places is None or not call.read[call.pooled]:
        return backend.backward(*call[:-2])
    if hasattr(backend, "READS_MAXIMA"):
        return backend.backward(*call)
    xs = _with_maxima(call.xs, sum(call.read[: call.pooled]), call.places)
    return backend.backward(*call._replace(xs=xs)[:-2])


def _check_bwd(*args: Any) -> None:
    where, call = "mixed_norm_sum_bwd", _Backward(*args)
    grad, count = call.grad, len(call.read)
    check_length(f"{where}: read", call.read, 1, MAX_INPUTS)
    check_channels(f"{where}: grad", grad)
    check_all_like(f"{where}: xs", call.xs, sum(call.read), grad.shape, grad.dtype)
    tables = {"mean": call.mean, "rstd": call.rstd, "gamma": call.gamma, "beta": call.beta}
    _check_tables(where, grad, call.weights, count, **tables)
    check_length(f"{where}: batch", call.batch, call.mean.shape[0], call.mean.shape[0])
    check_length(f"{where}: need_x", call.need_x, count, count)
    for k, (in_batch, is_read, need) in enumerate(zip(call.batch, call.read, call.need_x, strict=False)):
        if in_batch and need and not is_read:
            raise ValueError(f"mixed_norm_sum_bwd: read[{k}] must be True where batch[{k}] and need_x[{k}] are")
    _check_places(where, grad, call.places, call.pooled, count)
    if call.places is not None and call.need_x[call.pooled]:
        raise ValueError(f"{where}: need_x[{call.pooled}] must be False, as places are given")
    if call.need_weights and not call.need_sums:
        raise ValueError(f"{where}: need_sums must be True where need_weights is")


def _bwd_fake(*args: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    call = _Backward(*args)
    count, channels, acc = len(call.need_x), call.mean.size(1), accumulation_dtype(call.grad.dtype)
    format = torch.channels_last if call.channels_last else torch.contiguous_format
    grad_xs = [torch.empty_like(call.grad, memory_format=format) for need in call.need_x if need]
    sums = call.mean.new_empty(1 + count if call.need_sums else 0, channels)
    grad_weights = call.weights.new_empty(count if call.need_weights else 0)
    return grad_xs, grad_weights, sums, call.mean.new_empty(count, 4, channels, dtype=acc)


mixed_norm_sum_fwd = define(
    "mixed_norm_sum_fwd(Tensor[] xs, Tensor weights, Tensor? gamma, Tensor? beta, Tensor mean, Tensor rstd, "
    "Tensor? places, int pooled) -> Tensor",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
mixed_norm_sum_bwd = define(
    "mixed_norm_sum_bwd(Tensor grad, Tensor[] xs, Tensor weights, Tensor? gamma, Tensor? beta, Tensor mean, "
    "Tensor rstd, bool[] batch, bool[] read, bool[] need_x, bool need_weights, bool need_sums, bool channels_last, "
    "Tensor? places, int pooled) "
    "-> (Tensor[], Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
