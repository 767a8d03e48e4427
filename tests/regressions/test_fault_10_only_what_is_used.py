"""Fault 10: alpha steps computed weight gradients and threw them away; weight steps ran every candidate."""

import pytest
import torch

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.ops import mixed_sum
from asose_fast.ops.mixed_layer import mixed_layer
from asose_fast.space import mixed, stacked
from tests.helpers import candidates_of, make_batch, make_config, make_network, make_selector


@pytest.fixture
def parts():
    network, selector = make_network(), make_selector()
    return network, selector, weight_optimizer(make_config(), network), alpha_optimizer(selector.alpha, 0.1)


def watched(network):
    """Lists (layer, name) of every candidate that runs."""
    ran = []
    for layer, name, op in candidates_of(network):
        op.register_forward_hook(lambda *_, key=(layer, name): ran.append(key))
    return ran


def test_an_alpha_step_leaves_the_weights_and_computes_no_gradient_of_theirs(parts):
    network, selector, _, alpha = parts
    x, y = make_batch()
    before = {name: p.clone() for name, p in network.named_parameters()}
    computed = []
    for name, p in network.named_parameters():
        p.register_hook(lambda _, name=name: computed.append(name))
    sampled = selector.sample("search")
    alpha_step(network, alpha, x, y, Draw(sampled.weights, sampled.index.tolist()))
    for name, p in network.named_parameters():
        assert p.grad is None, name
        assert p.requires_grad, name
        assert torch.equal(p, before[name]), name
    assert computed == []


def test_a_weight_step_leaves_alpha(parts):
    network, selector, weights, _ = parts
    before = selector.logits().detach().clone()
    weight_step(network, weights, *make_batch(), selector.path("search"))
    assert torch.equal(selector.logits(), before)
    assert all(row.grad is None for row in selector.alpha)


def test_a_weight_step_runs_and_updates_the_sampled_candidates_alone(parts):
    network, _, weights, _ = parts
    ran = watched(network)
    path = [4, 1, 7, 9]
    weight_step(network, weights, *make_batch(), [0, 0, 0, 0])  # gives candidates momentum to coast on, were it used
    weight_step(network, weights, *make_batch(), [5, 5, 5, 5])
    before = {name: p.clone() for name, p in network.named_parameters()}
    ran.clear()
    weight_step(network, weights, *make_batch(), path)
    names = list(network.spec.blocks[0].candidates)
    assert ran == [(layer, names[k]) for layer, k in enumerate(path)]
    for name, p in network.named_parameters():
        if ".ops." in name:
            layer, candidate = int(name.split(".")[1]), name.split(".")[4]
            assert torch.equal(p, before[name]) == (candidate != names[path[layer]]), name


def test_an_alpha_step_runs_every_candidate_once(parts):
    network, selector, _, alpha = parts
    ran = watched(network)
    sampled = selector.sample("search")
    alpha_step(network, alpha, *make_batch(), Draw(sampled.weights, sampled.index.tolist()))
    assert ran == [(layer, name) for layer, name, _ in candidates_of(network)]


def owners(network):
    """(layer, index) of the candidate that owns a parameter-free last norm."""
    ops = [list(block.mixed.ops.values()) for block in network.evolvable_blocks()]
    return {list(op.modules())[-1]: (layer, k) for layer, row in enumerate(ops) for k, op in enumerate(row)}


@pytest.mark.parametrize("fused", [False, True])
def test_an_alpha_step_differentiates_the_sampled_candidates_alone(parts, monkeypatch, fused):
    network, selector, _, alpha = parts
    tracked, owner = [], owners(network)
    for block in network.evolvable_blocks():
        block.mixed.fused = fused

    def recorded(xs, weights):
        tracked.append([k for k, x in enumerate(xs[:10]) if x.requires_grad])
        return mixed_sum(xs, weights)

    def recorded_layer(x, weights, chains, *, pools, dense, zs, norms, plain, **options):
        last = [chain[-1].norm for chain in chains] + pools + norms[: len(dense)]
        handing_on = [n for n, t in zip(last, options["tracked"], strict=True) if t and x.requires_grad]
        handing_on += [norm for z, norm in zip(zs, norms[len(dense) :], strict=True) if z.requires_grad]
        *skip, _ = plain
        tracked.append([owner[norm][1] for norm in handing_on] + [3 for x in skip if x.requires_grad])
        return mixed_layer(x, weights, chains, pools=pools, dense=dense, zs=zs, norms=norms, plain=plain, **options)

    monkeypatch.setattr(mixed, "mixed_sum", recorded)
    monkeypatch.setattr(stacked, "mixed_layer", recorded_layer)
    sampled = selector.sample("search")
    path = sampled.index.tolist()
    assert 0 not in path[1:]  # none hands no gradient on
    alpha_step(network, alpha, *make_batch(), Draw(sampled.weights, path))
    # The first input comes from the frozen stem. An identity joins the shortcut where both are x.
    shared = [fused and k == 3 and block.spec.stride == 1 for k, block in zip(path, network.blocks, strict=True)]
    assert tracked == [[] if not layer or shared[layer] else [k] for layer, k in enumerate(path)]
