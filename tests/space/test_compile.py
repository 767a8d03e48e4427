"""torch.compile of a whole supernet, forward and backward, in one graph."""

import pytest
import torch
from torch.nn import functional as F

from asose_fast.engine.step.steps import frozen
from asose_fast.space import MixedOp
from benchmarks.counting import graph_breaks
from tests.helpers import make_batch, make_network, make_selector

CANDIDATES = ("none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3")
PATH = [3, 2]


def plans():
    sampled = make_selector(CANDIDATES, layers=2).sample("search")
    soft = make_selector(CANDIDATES, layers=2).sample("search", hard=False).weights.detach()
    hard = sampled.weights.detach()
    return {
        "sampled": {"path": PATH},
        "soft": {"weights": soft},
        "straight-through": {"weights": hard, "path": sampled.index.tolist()},
    }


def gradients(network, model, x, y, plan):
    network.zero_grad()
    plan = {key: value.clone().requires_grad_() if key == "weights" else value for key, value in plan.items()}
    loss = F.cross_entropy(model(x, **plan), y)
    loss.backward()
    found = [loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]
    return [*found, plan["weights"].grad] if "weights" in plan else found


@pytest.mark.parametrize("plan", ["sampled", "soft", "straight-through"])
def test_one_graph_with_the_same_gradients(plan):
    torch.compiler.reset()
    network, (x, y) = make_network(CANDIDATES, depth=2), make_batch()
    options = plans()[plan]
    expected = gradients(network, network, x, y, options)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    found = gradients(network, compiled, x, y, options)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_no_graph_breaks_under_autocast_and_with_frozen_weights():
    network, (x, _) = make_network(CANDIDATES, depth=2), make_batch()
    weights = plans()["soft"]["weights"].requires_grad_()
    with frozen(network), torch.autocast("cpu", torch.bfloat16):
        assert graph_breaks(network, x, weights) == 0


@pytest.mark.parametrize("kept", [False, True])
def test_choices_change_from_call_to_call(kept):
    """Of the kind: a compiled network fails once what it samples changes."""
    torch.compiler.reset()
    mixed = MixedOp.named(CANDIDATES, 4, 1).eval()
    compiled = torch.compile(mixed, fullgraph=True, backend="eager")
    x = torch.randn(2, 4, 5, 5)
    for k in (3, 1, 2, 0):
        weights = F.one_hot(torch.tensor(k), 4).float().requires_grad_()
        some = (k, (k + 1) % 4) if kept else None
        found, expected = (
            (y := run(x, weights, k, some), *torch.autograd.grad(y.square().sum(), weights))
            for run in (compiled, mixed)
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(compiled(x, index=k), mixed.ops[CANDIDATES[k]](x))
