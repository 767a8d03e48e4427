"""A batch without images, in evaluation mode: what plain PyTorch modules give, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asose_fast import ops
from asose_fast.space import MixedOp
from asose_fast.space.build import build, make_spec
from asose_fast.space.candidates import KNOWN
from tests.helpers import OF_BLOCKS, make_config


def run(module: nn.Module, x: Tensor, *plan: object) -> list[Tensor | None]:
    """The output and the gradients of x, of the weights of the plan and of the parameters."""
    leaves = [x, *(t for t in plan if isinstance(t, Tensor)), *module.parameters()]
    y = module(x, *plan)
    if not y.requires_grad:
        return [y]
    return [y.detach(), *torch.autograd.grad(y.sum(), leaves, allow_unused=True)]


def same(got: Tensor | None, expected: Tensor | None) -> bool:
    """No gradient is one of zeros."""
    tensors = [t for t in (got, expected) if t is not None]
    return len({(t.shape, t.dtype) for t in tensors}) <= 1 and not any(t.any() for t in tensors)


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("names", [tuple(KNOWN), *((name,) for name in KNOWN)], ids=lambda names: names[-1])
def test_mixed_operations(backend, memory, stride, names):
    fused, plain = (MixedOp.named(names, 6, stride, fused=f, memory=memory).eval() for f in (True, False))
    plain.load_state_dict(fused.state_dict())
    weights = torch.full((len(names),), 0.3, requires_grad=True)
    for plan in [(weights,), (weights, 0), (None, 0)]:
        x = torch.empty(0, 6, 5, 4, requires_grad=True)
        expected = run(plain, x, *plan)
        if backend is None:
            got = run(fused, x, *plan)
        else:
            with ops.backend(backend):
                got = run(fused, x, *plan)
        assert expected[0].shape == (0, 6, -(-5 // stride), -(-4 // stride))
        assert all(map(same, got, expected)), plan


@pytest.mark.parametrize("space", ["chain", "stages", "darts", "nasbench201"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks(space, dtype):
    network = build(make_spec(make_config(space=space), 3, 10)).eval()
    of_rows = network.spec.blocks if space in OF_BLOCKS else network.spec.edges
    rows, count = len(of_rows), len(of_rows[0].candidates)
    for plan in [(torch.full((rows, count), 0.1, requires_grad=True),), (None, [count - 1] * rows), (None, [3] * rows)]:
        x = torch.empty(0, 3, 9, 8, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            scores, grad_x, *_ = run(network, x, *plan)
        assert (scores.shape, scores.dtype, grad_x.shape) == ((0, 10), dtype, x.shape)
    derived = network.derive(network.choose(torch.rand(rows, count)))
    scores, grad_x, *grads = run(derived, torch.empty(0, 3, 9, 8, requires_grad=True))
    assert scores.shape == (0, 10)
    assert not any(g.any() for g in grads if g is not None)
