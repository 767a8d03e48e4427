"""Work that two commits are compared on: each case is a function without arguments that computes the same at each call.

They come from this checkout for both commits, and use what the package has long had, so that older commits run them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from asose_fast import ops
from benchmarks.steps import make, ours

Run = Callable[[], object]
BRANCHES = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)]


def leaf(*shape: int) -> torch.Tensor:
    """A random tensor that wants a gradient, channels_last."""
    x = torch.randn(shape)
    return (x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x).requires_grad_()


def gradients(forward: Callable[..., object], *leaves: torch.Tensor) -> Run:
    """Forward, and backward to every leaf."""

    def outputs() -> list[torch.Tensor]:
        ys = forward(*leaves)
        return [ys] if isinstance(ys, torch.Tensor) else list(ys)

    grads = [torch.randn_like(y) for y in outputs()]
    return lambda: torch.autograd.grad(outputs(), leaves, grads)


def arch_weights() -> Run:
    boost, noise = ops.Boost(), torch.randn(20, 10)
    return gradients(lambda a: ops.arch_weights(a, 1.0, boost=boost, noise=noise).weights, leaf(20, 10))


def mixed_sum(*shape: int) -> Run:
    return gradients(lambda w, *xs: ops.mixed_sum(xs, w), leaf(10), *(leaf(*shape) for _ in range(10)))


def multi_depthwise(*shape: int) -> Run:
    dilations = [d for _, d in BRANCHES]
    weights = [torch.randn(shape[1], 1, k, k, requires_grad=True) for k, _ in BRANCHES]
    return gradients(lambda x, *w: ops.multi_depthwise(x, w, dilations=dilations), leaf(*shape), *weights)


def pool_pair(*shape: int) -> Run:
    return gradients(ops.pool_pair, leaf(*shape))


def step(kind: str, batch: int) -> Run:
    """A step of the six-layer supernet. All paths of a process come from one seed: call by call, both commits draw the
    same."""
    return getattr(ours(*make(batch)), kind)


CASES: dict[str, Callable[[], Run]] = {
    "arch_weights, L=20": arch_weights,
    "mixed_sum, (2, 16, 8, 8)": lambda: mixed_sum(2, 16, 8, 8),
    "mixed_sum, (16, 16, 32, 32)": lambda: mixed_sum(16, 16, 32, 32),
    "multi_depthwise, (16, 16, 32, 32)": lambda: multi_depthwise(16, 16, 32, 32),
    "multi_depthwise, (16, 32, 16, 16)": lambda: multi_depthwise(16, 32, 16, 16),
    "pool_pair, (16, 32, 16, 16)": lambda: pool_pair(16, 32, 16, 16),
    "soft step, batch 16": lambda: step("soft", 16),
    "alpha step, batch 16": lambda: step("alpha", 16),
    "weight step, batch 16": lambda: step("weight", 16),
}
"""Each is prepared after `torch.manual_seed(0)`."""
