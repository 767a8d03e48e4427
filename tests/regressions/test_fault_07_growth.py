"""Fault 7: skip gave 2x, growth changed the function, misaligned alpha and lost optimizer state and genotype."""

import copy
import json

import pytest
import torch

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.growth.grow import deepen
from asose_fast.engine.result import write_result
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.space import BlockSpec, EvolvableBlock
from tests.helpers import make_batch, make_config, make_network, make_selector, make_trainer


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, -3.0, 7.25])
def test_skip_in_a_block_is_the_identity_for_every_gain(gain):
    block = EvolvableBlock(BlockSpec(("none", "skip_connect", "sep_conv_3x3"), 4, 4), gain=gain)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x, index=1), x)
    torch.testing.assert_close(block(x, torch.tensor([0.0, 1.0, 0.0]), 1), x)
    torch.testing.assert_close(block(x, torch.tensor([0.0, 1.0, 0.0])), x)
    assert torch.equal(block.derive(1)(x), x)


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("training", [True, False])
def test_deeper_keeps_the_function(position, training):
    network = make_network()
    x, _ = make_batch()
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    network.train(training)
    path = [4, 1, 7, 9]
    expected = copy.deepcopy(network)(x, path=path)
    network.deepen(position)
    assert all(m.training == training for m in network.modules())
    for new in range(10):
        grown = copy.deepcopy(network)(x, path=[*path[:position], new, *path[position:]])
        assert torch.equal(grown, expected)


def test_deeper_keeps_the_function_of_a_soft_mixture():
    network, x = make_network(), make_batch()[0]
    weights = torch.rand(4, 10).softmax(1)
    expected = copy.deepcopy(network)(x, weights)
    network.deepen(2)
    grown = network(x, torch.cat([weights[:2], torch.full((1, 10), 0.1), weights[2:]]))
    torch.testing.assert_close(grown, expected)


@pytest.mark.parametrize("position", range(5))
def test_alpha_and_optimizer_state_follow_their_layers(position):
    config = make_config()
    network, selector = make_network(), make_selector()
    weights, alpha = weight_optimizer(config, network), alpha_optimizer(selector.alpha, 0.1)
    x, y = make_batch()
    for _ in range(3):
        weight_step(network, weights, x, y, selector.path("search"))
        sampled = selector.sample("search")
        alpha_step(network, alpha, x, y, Draw(sampled.weights, sampled.index.tolist()))
    rows = [row.detach().clone() for row in selector.alpha]
    momentum = {name: weights.state[p] for name, p in network.named_parameters() if p in weights.state}
    adam = [alpha.state[row] for row in selector.alpha]
    network.blocks[0].probe = position  # the blocks themselves move, they are not copied

    deepen(network, selector, weights, alpha, position)

    kept = [layer for layer in range(5) if layer != position]
    assert len(network.blocks) == len(selector.alpha) == 5
    for old, layer in enumerate(kept):
        assert torch.equal(selector.alpha[layer], rows[old])
        assert alpha.state[selector.alpha[layer]] is adam[old]
    names = dict(network.named_parameters())
    for name, state in momentum.items():
        part, _, rest = name.partition(".")
        if part == "blocks":
            number, _, rest = rest.partition(".")
            name = f"blocks.{kept[int(number)]}.{rest}"
        assert weights.state[names[name]] is state
    assert {id(p) for g in weights.param_groups for p in g["params"]} == {id(p) for p in network.parameters()}
    assert [id(p) for g in alpha.param_groups for p in g["params"]].count(id(selector.alpha[position])) == 1


def test_a_new_layer_learns():
    config = make_config()
    network, selector = make_network(), make_selector(seed=3)
    weights, alpha = weight_optimizer(config, network), alpha_optimizer(selector.alpha, 0.1)
    deepen(network, selector, weights, alpha, 3)
    row, gain = selector.alpha[3], network.blocks[3].gain
    before = row.detach().clone()
    x, y = make_batch()
    for _ in range(2):
        path = [4] * 5
        weight_step(network, weights, x, y, path)
        sampled = selector.sample("growth")
        alpha_step(network, alpha, x, y, Draw(sampled.weights, sampled.index.tolist()))
    assert gain.item() != 0
    assert not torch.equal(row, before)


def test_genotype_and_network_agree_after_growth(tmp_path):
    trainer = make_trainer(tmp_path, growth_patience=1, growth_threshold=99.0, growth_epochs=2)
    trainer.run()
    summary = write_result(trainer.state, trainer.state.data, tmp_path)
    genotype = json.loads((tmp_path / "genotype.json").read_text())
    blocks = [block["candidates"][0] for block in genotype["network"]["blocks"]]
    (event,) = summary["growth"]
    assert (event["kind"], event["depth"]) == ("deeper", 3)
    assert trainer.state.network.depth == 3
    assert summary["depth"] == len(blocks) == 3 - len(summary["left_out"])
    assert genotype["operations"] == summary["operations"] == blocks


def test_grown_blocks_have_the_memory_layout_of_the_others(tmp_path):
    trainer = make_trainer(tmp_path, growth_patience=1, growth_epochs=2, candidates=("skip_connect", "conv_7x1_1x7"))
    trainer.state.grow_if_stalled(trainer.state.phases[2], 0.0)
    assert len(trainer.state.network.blocks) == 3
    for name, p in trainer.state.network.named_parameters():
        assert p.dim() != 4 or p.is_contiguous(memory_format=torch.channels_last), name
