"""`mixed_norm_sum` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import memory_format
from asose_fast.ops.reference.mixed_sum import reference as sum_reference

DTYPES = FLOATS


def reference(
    zs: Sequence[Tensor],
    weights: Tensor,
    norms: Sequence[Callable[[Tensor], Tensor]],
    plain: Sequence[Tensor] = (),
    plain_weights: Tensor | None = None,
) -> Tensor:
    """What `mixed_norm_sum` computes, as PyTorch would: every normalised tensor is made."""
    xs = [norm(z) for z, norm in zip(zs, norms, strict=True)] + list(plain)
    w = torch.cat([weights, weights.new_ones(len(plain)) if plain_weights is None else plain_weights])
    return sum_reference(xs, w).contiguous(memory_format=memory_format(zs[0]))


def forward(
    xs: list[Tensor], weights: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, rstd: Tensor
) -> Tensor:
    """The formula in plain PyTorch, as a backend: as many of `xs` as `mean` has rows are normalised."""
    y = torch.zeros_like(xs[0], dtype=torch.float64)
    for k, (x, w) in enumerate(zip(xs, weights.double().unbind(), strict=True)):
        term = x.double()
        if k < len(mean):
            term = (term - _per_channel(mean[k])) * _per_channel(rstd[k])
            term = term if gamma is None else term * _per_channel(gamma[k])
            term = term if beta is None else term + _per_channel(beta[k])
        y += torch.where(w == 0, 0, w * term)
    return y.to(xs[0].dtype).contiguous(memory_format=memory_format(xs[0]))


def backward(
    grad: Tensor,
    xs: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    batch: list[bool],
    read: list[bool],
    need_x: list[bool],
    need_weights: bool,
    need_sums: bool,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Gradients of xs and of the weights that are needed (else an empty tensor) and, per channel, the sums that these
    and other gradients are made of, and tables of what the gradients of xs are; as a backend.

    `xs` holds only the tensors that are `read`. The sums are (1 + K + J, C) float64, empty where not needed: S0, then
    S1 of the normalised and sum g x of the plain tensors, 0 for those that are not read. Of the tables (K + J, 4, C),
    in the accumulation dtype, the rows give dL/dx_k = scale * g + slope * (x_k - center) + shift, where x_k is read.
    """
    tensors = iter(xs)
    g = grad.double()
    acc = accumulation_dtype(grad.dtype)
    tables = mean.new_zeros(len(read), 4, mean.size(1))
    sums = [g.sum((0, 2, 3))]
    count = g.numel() // g.size(1)
    grad_xs = []
    for k, w in enumerate(weights.double().unbind()):
        x = next(tensors).double() if read[k] else torch.zeros_like(g)
        normalised = k < len(mean)
        if normalised and read[k]:
            x = (x - _per_channel(mean[k])) * _per_channel(rstd[k])
        sums.append((g * x).sum((0, 2, 3)))
        scale, center, slope, shift = tables[k]
        scale += w
        if normalised:
            center += mean[k].to(acc)
            scale *= rstd[k] if gamma is None else rstd[k] * gamma[k]
            if batch[k] and need_sums:
                slope -= scale * rstd[k] * sums[-1] / count
                shift -= scale * sums[0] / count + slope * (mean[k] - center)
        tables[k] = torch.where(w == 0, 0, tables[k])
        if not need_x[k]:
            continue
        grad_x = g
        if normalised:
            if batch[k]:
                grad_x = g - (_per_channel(sums[0]) + x * _per_channel(sums[-1])) / count
            grad_x = grad_x * _per_channel(rstd[k] if gamma is None else rstd[k] * gamma[k])
        grad_xs.append(
            torch.where(w == 0, 0, w * grad_x).to(grad.dtype).contiguous(memory_format=_format(channels_last))
        )
    of_channels = torch.stack(sums) if need_sums else mean.new_empty(0, mean.size(1))
    grad_weights = (
        gradient_of_weights(of_channels, weights, gamma, beta, len(mean)) if need_weights else weights.new_empty(0)
    )
    return grad_xs, grad_weights, of_channels, tables.to(acc)


def gradient_of_weights(sums: Tensor, weights: Tensor, gamma: Tensor | None, beta: Tensor | None, count: int) -> Tensor:
    """dL/dw, like w: sum_c gamma S1 + beta S0 of the `count` normalised terms, sum_c sum g x of the plain ones."""
    terms = sums[1:]
    if gamma is not None or beta is not None:
        normalised = terms[:count] if gamma is None else gamma * terms[:count]
        normalised = normalised if beta is None else normalised + beta * sums[:1]
        terms = torch.cat([normalised, terms[count:]])
    return terms.sum(1).to(weights.dtype)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
