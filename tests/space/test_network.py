"""The network: plan of channels and strides, specs, derivation, state."""

import json

import pytest
import torch

from asose_fast.space import BlockSpec, EvolvableBlock, Network, NetworkSpec
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.parts.convolution import SMALL
from tests.helpers import FEW, OF_BLOCKS, make_batch, make_config, make_network, plain_forward


def test_channels_double_and_resolution_halves_at_blocks_1_and_3():
    spec = NetworkSpec.chain(make_config(depth=6, channels=16), 3, 10)
    assert [(b.in_channels, b.out_channels, b.stride) for b in spec.blocks] == [
        (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [3, 5, 8])
@pytest.mark.parametrize("size", [8, 9, 11])
@pytest.mark.parametrize("space", OF_BLOCKS)
def test_any_size_gives_scores(space, channels, size):
    network = make_network(FEW, depth=5, channels=channels, classes=7, space=space)
    x = make_batch(images=4, size=size)[0]
    assert network(x, path=[3, 0, 2, 1, 3]).shape == (4, 7)
    assert network(x, torch.rand(5, 4)).shape == (4, 7)


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_spec_survives_json(space):
    for network in (make_network(space=space), make_network(FEW, space=space).derive([0, 1, 2, 3])):
        spec = network.spec
        read = NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert read == spec
        assert Network(read).state_dict().keys() == network.state_dict().keys()
    grown = make_network(FEW, space=space)
    grown.deepen(4)
    assert NetworkSpec.from_dict(grown.spec.to_dict()) == grown.spec
    assert len(grown.spec.blocks) == 5


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_plans_of_the_network_agree_with_plain_pytorch(space):
    network = make_network(space=space).double()
    x, _ = make_batch(dtype=torch.float64)
    soft = torch.rand(4, 10, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(network(x, soft), plain_forward(network, x, soft))
    path = [6, 1, 2, 9]
    hard = torch.nn.functional.one_hot(torch.tensor(path), 10).double()
    expected = plain_forward(network, x, hard)
    torch.testing.assert_close(network(x, path=path), expected)
    torch.testing.assert_close(network(x, hard, path), expected)
    torch.testing.assert_close(network(x, hard), expected)
    torch.testing.assert_close(network.derive(path)(x), expected)


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_derived_network_shares_its_modules(space):
    network = make_network(space=space).eval()
    path = [4, 3, 7, 9]
    derived = network.derive(path)
    assert not derived.training
    assert all(not m.training for m in derived.modules())
    assert derived.stem is network.stem
    assert derived.head is network.head
    shared = {id(p) for p in network.parameters()}
    assert all(id(p) in shared for p in derived.parameters())
    for block, original, k in zip(derived.blocks, network.blocks, path, strict=True):
        assert block.gain is original.gain
        assert block.project is original.project
        assert block.mixed.ops[block.spec.candidates[0]] is list(original.mixed.ops.values())[k]
    assert all(p.device.type == "cpu" for p in derived.parameters())
    assert [b.spec.candidates for b in network.blocks] == [tuple(network.spec.blocks[0].candidates)] * 4
    with pytest.raises(ValueError, match="argument"):
        network.derive(path[:3])


def test_state_dict_is_stable_through_growth_and_derivation():
    network = make_network(FEW)
    names = list(network.state_dict())
    assert names[:2] == ["stem.0.weight", "stem.1.running_mean"]
    assert "blocks.0.mixed.ops.sep_conv_3x3.1.weight" in names
    assert "blocks.0.gain" in names
    assert "blocks.1.project.1.weight" in names
    network.deepen(1)
    copy = Network(network.spec)
    copy.load_state_dict(network.state_dict())
    x, _ = make_batch()
    assert torch.equal(copy(x, path=[1, 3, 3, 2, 3]), network(x, path=[1, 3, 3, 2, 3]))


def test_a_block_projects_where_its_channels_change():
    plain, strided, wider = (EvolvableBlock(BlockSpec(FEW, 4, *rest)) for rest in ((4,), (4, 2), (8,)))
    assert plain.project is None
    assert strided.project is None
    assert wider.project is not None


def test_the_shortcut_of_a_strided_block_is_the_mean_of_what_is_there():
    block = EvolvableBlock(BlockSpec(FEW, 1, 1, stride=2), gain=0.0)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert block(x, index=0).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, at most .*, got 0"),
        ({"depth": 0}, "depth must be at least 1, at most .*, got 0"),
        ({"candidates": ("none", "none")}, "candidates must differ from each other, got none, none"),
        ({"candidates": ("skip_conect",)}, "unknown candidate 'skip_conect': did you mean 'skip_connect'"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Network(NetworkSpec.chain(make_config(**changes), 3, 10))


@pytest.mark.parametrize("side", [4, 40])
def test_a_projection_is_that_of_its_modules(side):
    block = EvolvableBlock(BlockSpec(("skip_connect",), 8, 12))
    block.to(memory_format=torch.channels_last)
    x = torch.randn(4, 8, side, side).requires_grad_()
    assert (x.numel() > SMALL) == (side == 40)
    y, expected = run_on_kernels(block.project, x), block.project(x)
    weight = block.project[1].weight
    grad = torch.randn_like(y)
    for got, exact in zip(
        (y, *torch.autograd.grad(y, [x, weight], grad)),
        (expected, *torch.autograd.grad(expected, [x, weight], grad)),
        strict=True,
    ):
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)


def test_a_projection_with_a_hook_runs_its_modules():
    block, seen = EvolvableBlock(BlockSpec(("skip_connect",), 4, 6)), []
    block.project[1].register_forward_hook(lambda *_: seen.append(1))
    block(torch.randn(2, 4, 5, 5), None, 0)
    assert seen
