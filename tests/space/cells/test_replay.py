"""Edges of cells run from their launches as they do by their modules."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.engine.step.steps import frozen
from asose_fast.space.cells import CellNetwork
from asose_fast.space.cells import network as network_module
from asose_fast.space.replay import RARE
from tests.space.cells.test_network import KINDS, make_batch, make_cells
from tests.space.replay_cases import launched

pytestmark = pytest.mark.skipif(_native.kernels_missing("cpu") is not None, reason="there is nothing to launch")


def step(
    network: CellNetwork, x: Tensor, weights: Tensor | None, path: Sequence[int] | None, alpha: bool
) -> tuple[int, list[Tensor | None]]:
    """How many parts were launched, the scores, all gradients, and the buffers afterwards."""
    network.zero_grad()
    given = None if weights is None else weights.detach().requires_grad_(alpha)
    with frozen(network) if alpha else contextlib.nullcontext():
        y = network(x, given, path)
    count = launched(y)
    y.square().mean().backward()
    gradients = [p.grad for p in network.parameters()] + ([given.grad] if given is not None else [])
    return count, [y.detach(), *gradients, *(b.clone() for b in network.buffers())]


def assert_close(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    """Up to rounding: gradients of what several edges read are added up in another order."""
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (a.double() - b.double()).norm() <= 1e-5 * b.double().norm()


@pytest.fixture(params=KINDS)
def network(request):
    return make_cells(request.param, channels=16)


def soft(network: CellNetwork) -> Tensor:
    return torch.rand(network.spec.rows, len(network.spec.edges[0].candidates)).softmax(1)


def path_of(network: CellNetwork) -> list[int]:
    """A path with a separable convolution, or a dense one, everywhere but on an edge that is left out."""
    names = network.spec.edges[0].candidates
    first = names.index("sep_conv_3x3" if "sep_conv_3x3" in names else "nor_conv_3x3")
    return [-1, *[first] * (network.spec.rows - 1)]


def hard(network: CellNetwork) -> tuple[Tensor, list[int]]:
    path = [max(0, index) for index in path_of(network)]
    weights = torch.nn.functional.one_hot(torch.tensor(path), len(network.spec.edges[0].candidates))
    return weights.float(), path


PLANS = {
    "mixture": lambda network: (soft(network), None, False),
    "alpha through a mixture": lambda network: (soft(network), None, True),
    "path": lambda network: (None, path_of(network), False),
    "alpha through a hard sample": lambda network: (*hard(network), True),
}


@pytest.mark.parametrize("plan", PLANS)
def test_launches_give_what_modules_give(network, plan, monkeypatch):
    x, _ = make_batch(size=8)
    twin, (weights, path, alpha) = copy.deepcopy(network), PLANS[plan](network)
    counts = []
    for _ in range(RARE + 2):
        count, found = step(network, x, weights, path, alpha)
        with monkeypatch.context() as patch:
            patch.setattr(network_module, "replayable", lambda x: False)
            none, expected = step(twin, x, weights, path, alpha)
        assert torch.equal(found[0], expected[0])
        assert_close(found, expected)
        assert none == 0
        counts.append(count)
    assert counts[0] == 0
    edges = sum(len(cell.ops) for cell in network.mixed_cells())
    if network.spec.kind == "darts" or (path is not None and not alpha):
        assert counts[-1] > 0.8 * edges, f"{counts} of {edges}"


def test_an_edge_that_is_changed_runs_by_its_modules(network):
    x, _ = make_batch(size=8)
    path = path_of(network)
    for _ in range(RARE + 2):
        before, _ = step(network, x, None, path, False)
    seen = []
    op = network.mixed_cells()[0].ops[1]
    handle = op.register_forward_hook(lambda module, given, y: seen.append(module))
    assert step(network, x, None, path, False)[0] == before - 1
    assert seen == [op]
    handle.remove()
    for _ in range(RARE + 2):
        last, _ = step(network, x, None, path, False)
    assert last == before
