"""What BatchNorm modules normalise by, for operators that fold several of them in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops.checks import check_like
from asose_fast.ops.dtypes import FLOATS


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What a norm was in a forward pass, in plain PyTorch: as differentiable as the module, statistics and all, whose
    running statistics it leaves alone."""

    mean: Tensor
    """(C,) float64, and so is rstd: what it normalised by."""
    rstd: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    of_batch: bool

    def __call__(self, z: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y, mean, rstd = z.double(), self.mean, self.rstd
        if self.of_batch:
            var, mean = torch.var_mean(y, (0, 2, 3), correction=0)
            # The value is that of the forward pass, the derivatives of every order are those of 1 / sqrt(var + eps).
            rstd = (rstd**-2 + (var - var.detach())).rsqrt()
        y = (y - mean[:, None, None]) * rstd[:, None, None]
        y = y if self.gamma is None else y * self.gamma[:, None, None]
        y = y if self.beta is None else y + self.beta[:, None, None]
        return y.to(z.dtype)


def measured(
    mean: Tensor, rstd: Tensor, gamma: Tensor | None, beta: Tensor | None, batch: Sequence[bool]
) -> list[Measured]:
    """The K norms of tables (K, C)."""
    gammas, betas = ([None] * len(batch) if rows is None else rows.unbind() for rows in (gamma, beta))
    return [Measured(*row) for row in zip(mean, rstd, gammas, betas, batch, strict=True)]


class OneNorm(NamedTuple):
    """One norm among the arguments of a registered operator, in the order of `ONE_NORM`."""

    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    batches: Tensor | None
    """How many batches the norm has seen; None where it is not updated."""
    of_batch: bool
    eps: float
    momentum: float

    @staticmethod
    def of(norm: nn.BatchNorm2d, of_batch: bool, gamma: Tensor | None, beta: Tensor | None) -> OneNorm:
        """Of a module, with its parameters as autograd gives them."""
        mean, var, batches, momentum = running_statistics(norm)
        return OneNorm(gamma, beta, mean, var, batches, of_batch, norm.eps, momentum)

    def check(self, where: str, shape: torch.Size, optional: bool = False) -> None:
        """Raises TypeError or ValueError unless it is for a tensor of that shape; `optional` as in `check_running`."""
        check_tables(
            where, shape, gamma=self.gamma, beta=self.beta, running_mean=self.running_mean, running_var=self.running_var
        )
        check_running(where, self.running_mean, self.running_var, self.batches, self.of_batch, optional)


ONE_NORM = (
    "Tensor? gamma, Tensor? beta, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? batches, "
    "bool of_batch, float eps, float momentum"
)


def check_tables(where: str, shape: torch.Size, **tables: Tensor | None) -> None:
    """Raises TypeError or ValueError unless the tables have a value for each channel of a tensor of that shape."""
    for name, table in tables.items():
        check_like(f"{where}: {name}", table, shape[1:2], *FLOATS)


def fake_affine_gradients(none: Tensor, gamma: Tensor | None, beta: Tensor | None, wanted: bool) -> tuple[Tensor, ...]:
    """What an operator gives for dL/dgamma and dL/dbeta where only shapes are wanted: empty ones like `none` for those
    that are not there."""
    return tuple(none.new_empty(0) if t is None or not wanted else torch.empty_like(t) for t in (gamma, beta))


def uses_batch(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm normalises by the statistics of the batch."""
    return norm.training or (held(norm, "running_mean") is None and held(norm, "running_var") is None)


def running_statistics(norm: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None, Tensor | None, float]:
    """Mean, variance and count of a norm, the last of these None where they are not updated, and its momentum, NaN
    where all batches count alike."""
    updated = norm.training and norm.track_running_stats
    return (
        held(norm, "running_mean"),
        held(norm, "running_var"),
        held(norm, "num_batches_tracked") if updated else None,
        nan if norm.momentum is None else norm.momentum,
    )


def held(module: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer of a module: as its attribute of that name, which takes ten times as long to read."""
    kind: dict[str, Any] = module._parameters if name in ("weight", "bias") else module._buffers
    found: Tensor | None
    try:
        found = kind[name]
    except KeyError:  # an attribute of another kind
        found = getattr(module, name)
    return found


def check_norm(where: str, norm: nn.BatchNorm2d, x: Tensor, given: str) -> None:
    """Raises TypeError or ValueError where a norm could not be given x. `given`: the subject of a sentence on that."""
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"{where} must be an nn.BatchNorm2d, got {type(norm).__name__}")
    if (norm.running_mean is None) != (norm.running_var is None):
        raise ValueError(f"{where} must have both running_mean and running_var, or neither")
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, name)
        if value is None:
            continue
        if value.shape != x.shape[1:2]:
            raise ValueError(f"{where} is for {value.numel()} channels, {given} {x.shape[1]}")
        if value.device != x.device:
            raise ValueError(f"{where} has its {name} on {value.device}, must have it on {x.device}")
        if not value.is_floating_point():
            raise TypeError(f"{where} must have a floating {name}, got {value.dtype}")


def check_running(
    where: str, mean: Tensor | None, var: Tensor | None, batches: Tensor | None, of_batch: bool, optional: bool = False
) -> None:
    """Raises ValueError unless a norm has the statistics that it uses and updates; it is `optional` where one without
    any is no norm."""
    check_like(f"{where}: batches", batches, (), torch.int64)
    has = mean is not None
    lacks = has != (var is not None) or not (has or of_batch or optional)
    if lacks or (batches is not None and not (has and of_batch)):
        raise ValueError(f"{where}: the norm must have the statistics that it uses, and that it updates")
    if batches is not None:
        check_updated(where, mean, var)


def check_updated(where: str, *statistics: Tensor | None) -> None:
    """Raises ValueError for running statistics whose channels share memory, where they are to be updated."""
    for table in statistics:
        if table is not None and table.numel() > 1 and table.stride(0) == 0:
            raise ValueError(f"{where}: running statistics that are updated must not be expanded")


def check_count(batch: Sequence[bool], shape: torch.Size) -> None:
    """Raises ValueError for fewer than two values a channel where a norm uses the statistics of the `batch`."""
    if any(batch) and shape.numel() // shape[1] < 2:
        raise ValueError(f"expected more than 1 value per channel when training, got zs of shape {tuple(shape)}")


def affine_parameters(norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor | None, Tensor | None]:
    """gamma and beta of all norms, (K, C) each; None where no norm has any."""
    gammas, betas = [held(norm, "weight") for norm in norms], [held(norm, "bias") for norm in norms]
    return _stack_or_none(gammas, 1.0), _stack_or_none(betas, 0.0)


def _stack_or_none(parameters: list[Tensor | None], fill: float) -> Tensor | None:
    """(K, C), with `fill` for a norm without the parameter; None where no norm has it."""
    present = [p for p in parameters if p is not None]
    if not present:
        return None
    return torch.stack([torch.full_like(present[0], fill) if p is None else p for p in parameters])


def gradients_of_affine(sums: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """dL/dgamma and dL/dbeta of the norms of such a sum, (K, C) each, for the weights (K, 1) of the terms."""
    s0, s1 = sums[:1], sums[1 : 1 + weights.shape[0]]
    return torch.where(weights == 0, 0, weights * s1), weights * s0
