"""What may not grow unnoticed: operators and waits of a step, memory kept for backward; and that they are counted."""

import pytest
import torch
from torch.nn import functional as F

from asose_fast.config import CANDIDATES
from benchmarks import steps
from benchmarks.counting import HostWaits, graph_breaks, operators
from benchmarks.memory import saved_bytes
from tests.helpers import make_batch, make_network

BATCH, CHANNELS = 2, 8
BOUNDS = {"weight": 300, "alpha": 730, "soft": 1270}
"""Operators of a step of six layers with ten candidates, one by one as on a GPU: what was counted, and a tenth more."""


@pytest.fixture(scope="module")
def parts():
    return steps.make(BATCH, CHANNELS)


@pytest.mark.parametrize("kind", BOUNDS)
def test_operators_of_a_step(parts, kind):
    ours = steps.ours(*parts, fused=False)
    getattr(ours, kind)()
    counted = operators(getattr(ours, kind)).total()
    assert BOUNDS[kind] / 2 < counted <= BOUNDS[kind]


def test_fewer_operators_than_plain_pytorch_takes(parts):
    for kind in ("weight", "alpha"):
        ours, eager = (form(*parts) for form in (steps.ours, lambda *p: steps.eager("nhwc", *p)))
        counts = []
        for one in (ours, eager):
            getattr(one, kind)()
            counts.append(operators(getattr(one, kind)).total())
        assert counts[0] < counts[1]


@pytest.mark.parametrize(("kind", "waits"), [("weight", ["tolist"]), ("alpha", ["tolist"]), ("soft", [])])
def test_waits_of_a_step(parts, kind, waits):
    ours = steps.ours(*parts)
    getattr(ours, kind)()
    with HostWaits(free=[ours.alpha_optimizer]) as found:
        getattr(ours, kind)()
    assert found.found == waits


def test_memory_kept_for_backward(parts):
    stacked, eager = steps.ours(*parts, fused=True), steps.eager("nhwc", *parts)
    assert saved_bytes(stacked.forward) < 0.8 * saved_bytes(eager.forward)


def test_operators_are_counted():
    x = torch.ones(3)
    counted = operators(lambda: (x + 1) * (x + 2))
    assert counted == {"aten.add.Tensor": 2, "aten.mul.Tensor": 1}


def test_graph_breaks_are_counted():
    assert graph_breaks(lambda x: x.sin().cos(), torch.ones(2)) == 0
    assert graph_breaks(lambda x: x * x.sum().item(), torch.ones(2)) == 1
    network, (x, y) = make_network(CANDIDATES[:5]), make_batch()
    assert graph_breaks(lambda x: F.cross_entropy(network(x, path=[4, 3, 2, 1]), y), x) == 0
