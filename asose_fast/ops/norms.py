"""What BatchNorm modules normalise by, for operators that fold several of them in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor, nn

from asose_fast.ops.mixed_sum import accumulation_dtype


def of_batch(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm normalises by the statistics of the batch."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def check_count(norms: Sequence[nn.BatchNorm2d], shape: torch.Size) -> None:
    """Raises ValueError for fewer than two values a channel where a norm needs the statistics of the batch."""
    if any(map(of_batch, norms)) and shape.numel() // shape[1] < 2:
        raise ValueError(f"expected more than 1 value per channel when training, got zs of shape {tuple(shape)}")


@torch.no_grad()
def normalisation(
    zs: Sequence[Tensor], norms: Sequence[nn.BatchNorm2d], mean: Tensor, var: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) that each norm normalises its z by, (K, C) float64.

    `mean` and `var` are those of the batch, (K, C) float64, biased; they may be empty where no norm needs them. As the
    modules would, this updates the running statistics of those in training mode. `zs` are of one shape and dtype.
    """
    batch = [of_batch(norm) for norm in norms]
    if any(batch):
        count, acc = zs[0].numel() // zs[0].size(1), accumulation_dtype(zs[0].dtype)
        rows = [
            (m, v) for m, v, use in zip(mean.to(acc), (var * (count / (count - 1))).to(acc), batch, strict=True) if use
        ]
        _update_running(list(compress(norms, batch)), rows)
    if not all(batch):
        pairs = [
            (mean[k], var[k]) if use else _running(norm) for k, (norm, use) in enumerate(zip(norms, batch, strict=True))
        ]
        mean, var = (torch.stack(rows) for rows in zip(*pairs, strict=True))
    eps = torch.tensor([[norm.eps] for norm in norms], dtype=torch.float64, device=var.device)
    return mean, torch.rsqrt(var + eps)


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.double(), norm.running_var.double()


def _update_running(norms: list[nn.BatchNorm2d], rows: list[tuple[Tensor, Tensor]]) -> None:
    """What every norm that tracks statistics does in training, in few calls for all of them.

    `rows` hold the mean and the unbiased variance of each.
    """
    counts, running, new, shares = [], [], [], []
    for norm, pair in zip(norms, rows, strict=True):
        tracked = norm.running_mean, norm.running_var
        count, momentum = norm.num_batches_tracked, norm.momentum
        if not norm.training or not norm.track_running_stats or count is None:
            continue
        counts.append(count)
        for old, row in zip(tracked, pair, strict=True):
            assert old is not None
            old = old.data  # as in PyTorch, a graph of an earlier forward pass does not mind
            values = row if row.dtype == old.dtype else row.to(old.dtype)
            if momentum is None:
                # The average over all batches; their number stays on its device.
                old.lerp_(values, (count + 1).to(old.dtype).reciprocal())
            else:
                running.append(old)
                new.append(values)
                shares.append(momentum)
    if counts:
        torch._foreach_add_(counts, 1)
    if running:
        torch._foreach_lerp_(running, new, shares)


def affine_parameters(norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor | None, Tensor | None]:
    """gamma and beta of all norms, (K, C) each; None where no norm has any."""
    return _stack_or_none([norm.weight for norm in norms], 1.0), _stack_or_none([norm.bias for norm in norms], 0.0)


def _stack_or_none(parameters: list[Tensor | None], fill: float) -> Tensor | None:
    """(K, C), with `fill` for a norm without the parameter; None where no norm has it."""
    present = [p for p in parameters if p is not None]
    if not present:
        return None
    return torch.stack([torch.full_like(present[0], fill) if p is None else p for p in parameters])
