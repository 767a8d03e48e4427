"""Networks of cells: shapes, plans, shared alpha, fused and plain, deriving."""

import copy

import pytest
import torch
from torch.nn import functional as F

from asose_fast.config import CELL_CANDIDATES, Config
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.evaluate import recalibrate
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.space.build import build, make_spec, spec_from_dict
from asose_fast.space.cells.network import DartsCell
from tests.helpers import CPU, make_selector

KINDS = {"darts": 3, "nasbench201": 1}


def make_cells(kind, channels=4, classes=5, **changes):
    torch.manual_seed(0)
    config = Config(space=kind, cells=KINDS[kind], channels=channels, **changes)
    return build(make_spec(config, 3, classes)).to(CPU, memory_format=torch.channels_last)


def make_batch(images=6, size=11, dtype=torch.float32):
    x = torch.randn(images, 3, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.arange(images) % 5


def selector_for(network):
    return make_selector(network.spec.edges[0].candidates, network.spec.rows)


def plain_forward(network, x, weights):
    """In plain PyTorch: every candidate of every edge is computed and multiplied by its weight."""
    count = len(network.spec.normal)
    x = before = network.stem(x)
    for cell in network.cells:
        if not hasattr(cell, "edges"):
            x = cell(x)
            continue
        rows = weights[count:] if isinstance(cell, DartsCell) and cell.reduces else weights[:count]
        darts = isinstance(cell, DartsCell)
        states = [cell.before(before), cell.last(x)] if darts else [x]
        for node in range(cell.inputs, cell.inputs + cell.steps):
            total = 0
            for edge, mixed, row in zip(cell.edges, cell.ops, rows, strict=True):
                if edge.target == node:
                    total = total + sum(
                        w * op(states[edge.source]) for w, op in zip(row, mixed.ops.values(), strict=True)
                    )
            states.append(total)
        before, x = x, torch.cat(states[2:], 1) if darts else states[-1]
    return network.head(x)


@pytest.mark.parametrize(("kind", "rows", "candidates"), [("darts", 28, 8), ("nasbench201", 6, 5)])
def test_the_spaces_are_what_was_published(kind, rows, candidates):
    network = make_cells(kind)
    assert network.spec.rows == rows
    assert all(len(edge.candidates) == candidates for edge in network.spec.edges)
    x, _ = make_batch()
    assert network(x, torch.full((rows, candidates), 1 / candidates)).shape == (6, 5)
    assert spec_from_dict(network.spec.to_dict()) == network.spec
    assert Config(space=kind).candidates == CELL_CANDIDATES[kind]


def test_cells_reduce_after_a_third_and_two_thirds():
    network = build(make_spec(Config(space="darts", channels=4), 3, 5))
    assert [cell.reduces for cell in network.cells] == [i in (2, 5) for i in range(8)]
    assert network.head[-1].in_features == 4 * 16


@pytest.mark.parametrize("kind", KINDS)
def test_the_soft_mixture_and_its_gradients_are_those_of_plain_pytorch(kind):
    network, (x, y) = make_cells(kind), make_batch()
    selector = selector_for(network)
    weights = selector.sample("growth", hard=False).weights.detach()
    results = []
    for fused in (True, False, None):
        network.zero_grad()
        for cell in network.mixed_cells():
            for mixed in cell.ops:
                mixed.fused = bool(fused)
        leaf = weights.clone().requires_grad_()
        scores = plain_forward(network, x, leaf) if fused is None else network(x, leaf)
        F.cross_entropy(scores, y).backward()
        results.append((scores.detach(), leaf.grad, network.stem[0].weight.grad.clone()))
    for found in results[:2]:
        for ours, theirs in zip(found, results[2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_alphas_gradient_is_right_where_cells_share_it(kind):
    network, (x, y) = make_cells(kind).double(), make_batch(dtype=torch.float64)
    selector = selector_for(network)
    sampled = selector.sample("search")
    leaf = sampled.weights.detach().double().requires_grad_()
    F.cross_entropy(plain_forward(network, x, leaf), y).backward()
    expected = torch.autograd.grad((sampled.weights * leaf.grad).sum(), selector.alpha, retain_graph=True)
    network.zero_grad()
    alpha_step(network, torch.optim.SGD(selector.alpha, 0.0), x, y, Draw(sampled.weights, sampled.index.tolist()))
    for row, gradient in zip(selector.alpha, expected, strict=True):
        torch.testing.assert_close(row.grad, gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_step_runs_the_sampled_candidate_of_every_edge_alone(kind):
    network, (x, y) = make_cells(kind), make_batch()
    selector = selector_for(network)
    path = selector.path("search")
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    weight_step(network, optimizer, x, y, path)
    for cell in network.mixed_cells():
        rows = path[len(network.spec.normal) :] if getattr(cell, "reduces", False) else path
        for mixed, k in zip(cell.ops, rows, strict=False):
            touched = [any(p.grad is not None for p in op.parameters()) for op in mixed.ops.values()]
            assert not any(hit for j, hit in enumerate(touched) if j != k)


@pytest.mark.parametrize("kind", KINDS)
def test_the_derived_network_computes_what_its_path_did(kind):
    network, (x, _) = make_cells(kind), make_batch()
    path = network.choose(selector_for(network).logits().detach())
    expected = network(x, path=path)
    derived = network.derive(path)
    torch.testing.assert_close(derived(x), expected, rtol=1e-4, atol=1e-5)
    assert derived.spec.derived
    assert derived.operations == derived.spec.operations
    assert {id(p) for p in derived.parameters()} <= {id(p) for p in network.parameters()}
    alone = build(derived.spec)
    alone.load_state_dict(copy.deepcopy(derived.state_dict()))
    recalibrate(derived, [(x, None)], 1)
    alone.load_state_dict(derived.state_dict())
    torch.testing.assert_close(alone.eval()(x), derived.eval()(x))


def test_darts_keeps_the_two_strongest_edges_of_a_node_and_never_none():
    network = make_cells("darts")
    scores = torch.rand(28, 8)
    scores[:, 0] = 9.0  # none
    scores[4, 5] = 3.0  # node 3, from node 2
    path = network.choose(scores)
    assert len([k for k in path if k >= 0]) == 16
    assert 0 not in path
    assert path[4] == 5
    edges = network.derive(path).spec.normal
    assert [edge.target for edge in edges] == [2, 2, 3, 3, 4, 4, 5, 5]


def test_nas_bench_201_keeps_every_edge_and_may_choose_none():
    network = make_cells("nasbench201")
    scores = torch.eye(6, 5)
    assert network.choose(scores)[:5] == [0, 1, 2, 3, 4]
    x, _ = make_batch()
    assert network.derive([0] * 6)(x).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_drop_path_takes_outputs_of_edges_in_training_alone(kind):
    network, (x, _) = make_cells(kind), make_batch()
    path = [1] * network.spec.rows
    derived = network.derive(path)
    derived.set_drop_path(0.5)
    if kind == "darts":  # max_pool_3x3
        assert not torch.equal(derived(x), derived(x))
    else:  # skip_connect
        torch.testing.assert_close(derived(x), derived(x))
    derived.eval()
    assert torch.equal(derived(x), derived(x))


def test_evaluation_networks_have_affine_norms():
    from asose_fast.space.cells.genotype import from_text

    text = "|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    spec = from_text(text, in_channels=3, classes=5, channels=4, cells=1)
    network = build(spec)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(norm.affine for norm in norms)
    pools = [m for name, m in network.named_modules() if name.endswith("avg_pool_3x3")]
    assert [type(pool) for pool in pools] == [torch.nn.AvgPool2d] * 3
    x, y = make_batch()
    F.cross_entropy(network(x), y).backward()
    assert spec.scaled(6).channels == 6
