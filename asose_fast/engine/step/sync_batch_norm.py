"""Batch norm over the images of all processes, on CPUs too (torch's SyncBatchNorm runs on GPUs alone)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.engine.processes import Processes
from asose_fast.ops.autograd import gradients, save, stand_in, transformed, twice_differentiable
from asose_fast.space.channels import RULES


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that, in training mode, normalises by mean and variance over the images of all processes:
    the same, up to rounding, as one process that has them all. A process may have none.

    All processes call forward and backward in the same order. The stacked branches of `asose_fast.space` know exact
    types alone, so that layers with this norm run their modules one by one.
    """

    processes: Processes
    synchronised: bool

    @staticmethod
    def of(norm: nn.BatchNorm2d, processes: Processes) -> SyncBatchNorm2d:
        """Takes the place of `norm`, with its own parameters and statistics, not copies."""
        sync = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, device="meta")
        sync.weight, sync.bias = norm.weight, norm.bias
        sync.running_mean, sync.running_var = norm.running_mean, norm.running_var
        sync.num_batches_tracked = norm.num_batches_tracked
        sync.processes, sync.synchronised = processes, True
        sync.train(norm.training)
        return sync

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); N may be 0 as long as it is not in all processes."""
        if not (self.training and self.synchronised):
            return super().forward(x)
        if transformed():
            raise NotImplementedError(
                "SyncBatchNorm2d: forward mode, torch.func and torch.jit.trace do not reach the other processes; use "
                "on_its_own(network), or evaluation mode"
            )
        mean, var, count = _statistics(x, self.processes)
        self._track(mean, var, count)
        y: Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean, torch.rsqrt(var + self.eps), count, self.processes
        )
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else self.num_batches_tracked.double().reciprocal()
        unbiased = var * (count / (count - 1).clamp(min=1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(new.to(running.dtype), share if isinstance(share, float) else share.to(running.dtype))


@torch.no_grad()
def _statistics(x: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) and the number of values a channel over all processes, in float64."""
    values = x.numel() // x.shape[1]
    local = x.new_zeros(2, x.shape[1], dtype=torch.float64)
    if values:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        mean = mean.double()
        local = torch.stack([mean, var.double() + mean.square()]) * values
    message = torch.cat([local.reshape(-1), local.new_tensor([values])])
    *sums, count = processes.sum(message).split([x.shape[1], x.shape[1], 1])
    mean, square = (s / count for s in sums)
    return mean, (square - mean.square()).clamp(min=0), count


class _Sum(torch.autograd.Function):
    """Over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, ctx.processes), None


def _plain(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    count: Tensor,
    processes: Processes,
) -> Tensor:
    """What `_Normalise` computes, with mean and scale as functions of x."""
    wide = x.double()
    mean = _Sum.apply(wide.sum((0, 2, 3)), processes) / count
    var = _Sum.apply((wide - mean[:, None, None]).square().sum((0, 2, 3)), processes) / count
    scale = (scale**-2 + (var - var.detach())).rsqrt()  # with the value of the forward pass
    y = (wide - mean[:, None, None]) * scale[:, None, None]
    y = y if weight is None else y * weight[:, None, None]
    return (y if bias is None else y + bias[:, None, None]).to(x.dtype)


def _differentiable_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, mean, scale, count = ctx.saved_tensors
    bias = None if weight is None else stand_in(weight)
    return gradients(ctx, _plain, (x, weight, bias, mean, scale, count, ctx.processes), [dy])


class _Normalise(torch.autograd.Function):
    """y = (x - mean) * scale * weight + bias, where mean and scale depend on the x of all processes. Backward:

    dx = weight * scale * (dy - sum(dy) / n - xhat * sum(dy * xhat) / n), with xhat = (x - mean) * scale, sums over
    all n values of the channel in all processes; the gradients of weight and bias are the process's own share.

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        count: Tensor,
        processes: Processes,
    ) -> Tensor:
        ctx.processes = processes
        save(ctx, x, weight, mean, scale, count)
        y = _normalised(x, mean, scale)
        if weight is not None:
            y = y * weight[:, None, None]
        return y if bias is None else y + bias[:, None, None]

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        xhat = _normalised(x, mean, scale)
        sums = torch.stack([dy.sum((0, 2, 3)), (dy * xhat).sum((0, 2, 3))])
        dbias, dweight = (own if weight is not None else None for own in sums.unbind())
        dx = None
        if ctx.needs_input_grad[0]:
            mean_dy, mean_dy_xhat = (ctx.processes.sum(sums.to(torch.float64, copy=True)) / count).to(x.dtype).unbind()
            dx = dy - mean_dy[:, None, None] - xhat * mean_dy_xhat[:, None, None]
            dx *= (scale if weight is None else scale * weight).to(x.dtype)[:, None, None]
        return dx, dweight, dbias, None, None, None, None


def _normalised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (x - mean.to(x.dtype)[:, None, None]) * scale.to(x.dtype)[:, None, None]


def synchronise(network: nn.Module, processes: Processes) -> None:
    """Has every nn.BatchNorm2d of a network take its statistics from all processes, in place. Others are left alone."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SyncBatchNorm2d.of(child, processes))


@contextlib.contextmanager
def on_its_own(network: nn.Module) -> Iterator[None]:
    """Inside the block a process may run `network` without the others: its norms take the statistics of its images."""
    norms = [m for m in network.modules() if isinstance(m, SyncBatchNorm2d)]
    for norm in norms:
        norm.synchronised = False
    try:
        yield
    finally:
        for norm in norms:
            norm.synchronised = True


RULES[SyncBatchNorm2d] = RULES[nn.BatchNorm2d]
