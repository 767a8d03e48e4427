"""The fused operators, forward and backward, beside PyTorch's forms of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from benchmarks.baselines import eager_arch_weights, eager_mixed_sum
from benchmarks.counting import launches, operators
from benchmarks.gpu.table import BASELINES, Run, Table

BRANCHES = ((3, 1), (5, 1), (7, 1), (3, 2), (5, 2))
"""(kernel, dilation) of a mixed layer's depthwise convolutions."""
DILATIONS = [dilation for _, dilation in BRANCHES]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
INPUTS, NORMS = 10, 8
SETS = 3
"""Of buffers, taken in turn: with the larger shapes each call finds the L2 cache cold."""

Function = Callable[..., Any]


def on(backend: str, step: Run) -> Run:
    """`step` with every operator on one backend."""

    def run() -> None:
        with ops.backend(backend):
            step()

    return run


def backends(op: str, device: torch.device) -> list[str]:
    """The compiled backends of an operator; one that cannot run here says why when it is called."""
    return [b for b in ("cpu", "cuda", "triton") if b == device.type or (b == "triton" and device.type == "cuda")]


def forms(
    op: str, table: Table, ours: Function, theirs: Function, leaves: Callable[[torch.memory_format], Sequence[Tensor]]
) -> dict[str, Callable[[], Run]]:
    """Forward and backward of an operator on each backend, and of PyTorch's form of it in both layouts and compiled.

    `leaves(format)` makes the tensors that both take and have gradients of.
    """

    def step(function: Function, format: torch.memory_format) -> Run:
        sets = itertools.cycle([(made := leaves(format), _grads(function(*made))) for _ in range(SETS)])

        def run() -> None:
            tensors, grads = next(sets)
            ys = function(*tensors)
            torch.autograd.grad(ys, tensors, grads)

        return run

    def on_backend(name: str) -> Callable[[], Run]:
        def make() -> Run:
            if reason := registry.why_not(op, name, table.device.type):
                raise RuntimeError(reason)
            return on(name, step(ours, torch.channels_last))

        return make

    found = {name: on_backend(name) for name in backends(op, table.device)}
    for layout, format in LAYOUTS.items():
        found[f"eager {layout}"] = lambda format=format: step(theirs, format)
    for mode in table.compiling:
        found[f"compile {mode}"] = lambda mode=mode: step(compiled(theirs, mode), torch.channels_last)
    return found


def compiled(function: Function, mode: str) -> Function:
    """torch.compile afresh, whatever was compiled before."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False, mode=None if mode == "default" else mode)


def _grads(ys: Any) -> list[Tensor]:
    return [torch.randn_like(y) for y in ([ys] if isinstance(ys, Tensor) else ys)]


def _random(table: Table, dtype: torch.dtype, *shape: int) -> Callable[[torch.memory_format], Tensor]:
    def make(format: torch.memory_format) -> Tensor:
        return torch.randn(shape, device=table.device).to(dtype).contiguous(memory_format=format).requires_grad_()

    return make


def mixing(table: Table) -> None:
    """mixed_sum and mixed_norm_sum as a share of the copy bandwidth."""
    shapes = [(2, 8, 8, 8)] if table.dry else [(256, 64, 32, 32), (128, 16, 32, 32), (128, 64, 16, 16)]
    for shape, dtype in itertools.product(shapes, (torch.bfloat16, torch.float32)):
        bytes_each = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
        name = f"{shape} {str(dtype).removeprefix('torch.')}"
        tensor = _random(table, dtype, *shape)

        def leaves(format: torch.memory_format, count: int, tensor: Any = tensor) -> list[Tensor]:
            return [torch.rand(count, device=table.device).requires_grad_(), *(tensor(format) for _ in range(count))]

        # Forward reads K and writes 1; backward reads K + 1 and writes K.
        table.compare(
            f"mixed_sum {name}",
            forms(
                "mixed_sum",
                table,
                lambda weights, *xs: ops.mixed_sum(xs, weights),
                lambda weights, *xs: eager_mixed_sum(xs, weights.to(xs[0].dtype)),
                lambda format, leaves=leaves: leaves(format, INPUTS),
            ),
            moved=(3 * INPUTS + 2) * bytes_each,
        )
        norms = [nn.BatchNorm2d(shape[1], affine=False).to(table.device) for _ in range(NORMS)]

        def ours(weights: Tensor, *zs: Tensor, norms: list[nn.BatchNorm2d] = norms) -> Tensor:
            return ops.mixed_norm_sum(zs, weights, norms)

        def theirs(weights: Tensor, *zs: Tensor, norms: list[nn.BatchNorm2d] = norms) -> Tensor:
            return eager_mixed_sum([norm(z) for norm, z in zip(norms, zs, strict=True)], weights.to(zs[0].dtype))

        # Statistics read K, the sum reads K and writes 1; backward reads K + 1 twice and writes K.
        table.compare(
            f"mixed_norm_sum {name}",
            forms("mixed_norm_sum", table, ours, theirs, lambda format, leaves=leaves: leaves(format, NORMS)),
            moved=(5 * NORMS + 3) * bytes_each,
        )


def sampling(table: Table) -> None:
    """arch_weights: time, and launches forward and backward."""
    for layers in (6, 20):
        logits = torch.randn(layers, 10, device=table.device, requires_grad=True)
        grad = torch.randn(layers, 10, device=table.device)
        rng = torch.tensor([1, 0], device=table.device)

        def forward(logits: Tensor = logits, rng: Tensor = rng) -> Tensor:
            return ops.arch_weights(logits, 1.0, boost=ops.Boost(), rng=rng).weights

        def both(logits: Tensor = logits, grad: Tensor = grad, forward: Function = forward) -> None:
            torch.autograd.grad(forward(), logits, grad)

        def eager(logits: Tensor = logits, grad: Tensor = grad) -> None:
            torch.autograd.grad(torch.stack(eager_arch_weights(logits.unbind(), 1.0)), logits, grad)

        variants = {
            name: lambda name=name, both=both: on(name, both) for name in backends("arch_weights", table.device)
        }
        table.compare(f"arch_weights L={layers}", {**variants, "eager": lambda eager=eager: eager})
        count = operators if table.device.type == "cpu" else launches
        for name in backends("arch_weights", table.device):
            for part, step in (("forward", forward), ("forward and backward", both)):
                run = on(name, step)
                table.attempt(
                    f"arch_weights L={layers}: {count.__name__} {part}, {name}",
                    lambda run=run, count=count: (run(), dict(count(run)))[1],
                )


def depthwise(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """PyTorch's form of multi_depthwise."""
    active = x.relu()
    return tuple(
        F.conv2d(active, w, None, 1, d * (w.shape[-1] - 1) // 2, d, w.shape[0])
        for w, d in zip(weights, DILATIONS, strict=True)
    )


def separable(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """PyTorch's form of ops.separable."""
    ys = depthwise(x, *weights[: len(BRANCHES)])
    return tuple(F.conv2d(y, w) for y, w in zip(ys, weights[len(BRANCHES) :], strict=True))


def fused_separable(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """ops.separable, called alike."""
    return ops.separable(x, weights[: len(BRANCHES)], weights[len(BRANCHES) :], dilations=DILATIONS)


def pools(x: Tensor) -> tuple[Tensor, ...]:
    """PyTorch's form of pool_pair."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), F.max_pool2d(x, 3, 1, 1)


def convolving(table: Table) -> None:
    """multi_depthwise, separable and pool_pair at the shapes of a search."""
    sizes = [(2, 4, 8)] if table.dry else [(128, c, side) for side in (32, 16) for c in (64, 16, 128)]
    for (images, channels, side), dtype in itertools.product(sizes, (torch.bfloat16, torch.float32)):
        shape = (images, channels, side, side)
        name = f"{shape} {str(dtype).removeprefix('torch.')}"
        x = _random(table, dtype, *shape)
        kernels = [_random(table, dtype, channels, 1, k, k) for k, _ in BRANCHES]
        points = [_random(table, dtype, channels, channels, 1, 1) for _ in BRANCHES]

        def leaves(format: torch.memory_format, *more: Any, x: Any = x) -> list[Tensor]:
            return [x(format), *(one(torch.contiguous_format) for one in more)]

        table.compare(
            f"multi_depthwise {name}",
            forms(
                "multi_depthwise",
                table,
                lambda x, *weights: ops.multi_depthwise(x, weights, dilations=DILATIONS),
                depthwise,
                lambda format, leaves=leaves, more=tuple(kernels): leaves(format, *more),
            ),
        )
        table.compare(
            f"separable {name}",
            forms(
                "separable",
                table,
                fused_separable,
                separable,
                lambda format, leaves=leaves, more=(*kernels, *points): leaves(format, *more),
            ),
        )
        table.compare(f"pool_pair {name}", forms("pool_pair", table, ops.pool_pair, pools, leaves))


class _Collected(Table):
    """Takes note of what would be timed."""

    def compare(self, name: str, variants: dict[str, Callable[[], Run]], *, moved: int = 0, calls: int = 1) -> None:
        self.makers = getattr(self, "makers", {})
        self.makers |= {f"{name} {v}": make for v, make in variants.items() if not v.startswith(BASELINES)}

    def attempt(self, name: str, work: Run) -> None: ...


def every_operator(device: torch.device, dry: bool = True) -> dict[str, Callable[[], Run]]:
    """What makes one call, forward and backward, of each operator on each backend: for profilers and sanitizers."""
    table = _Collected(device, dry=dry, rounds=1, compiling=())
    for work in (mixing, sampling, convolving):
        work(table)
    return table.makers
