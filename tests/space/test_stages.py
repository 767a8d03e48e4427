"""The space stages: its plan, the plain network and the residual one in it, poolings, specs, growth in width."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast.config import SPACE_CANDIDATES, Config
from asose_fast.engine.growth.grow import next_position, next_stage
from asose_fast.space import BlockSpec, Network, NetworkSpec
from asose_fast.space.build import make_spec, spec_from_dict
from asose_fast.space.cost import candidate_costs, cost_of
from asose_fast.space.prune import pruned_spec
from tests.growth_cases import randomize
from tests.helpers import make_network

NAMES = SPACE_CANDIDATES["stages"]


def make_stages(image_size=None, classes=10, **settings):
    return make_spec(Config(space="stages", **settings), 3, classes, image_size)


def path_of(network, name, last=None):
    """All blocks have the same candidate, or the last one another."""
    names = [*[name] * (network.depth - 1), last or name]
    return network.derive([network.spec.blocks[0].candidates.index(name) for name in names])


def test_the_plan_of_six_blocks():
    spec = make_stages(depth=6, channels=16)
    assert [(b.in_channels, b.out_channels, b.stride, b.project, b.kernel, b.pool) for b in spec.blocks] == [
        (16, 16, 1, False, 1, False), (16, 32, 1, True, 3, True), (32, 32, 1, False, 1, False),
        (32, 64, 1, True, 3, True), (64, 64, 1, False, 1, False), (64, 64, 1, False, 1, False),
    ]  # fmt: skip
    assert spec.stem_pool
    assert all(block.candidates == NAMES for block in spec.blocks)
    assert NAMES[-2:] == ("nor_conv_3x3", "res_conv_3x3")


@pytest.mark.parametrize(
    ("depth", "lengths"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (4, [1, 1, 2]), (5, [1, 2, 2]), (9, [3, 3, 3])]
)
def test_blocks_are_divided_among_stages(depth, lengths):
    blocks = make_stages(depth=depth).blocks
    ends = [i + 1 for i, block in enumerate(blocks) if block.project]
    assert [end - start for start, end in itertools.pairwise([0, *ends, depth])] == lengths
    assert not blocks[-1].project


@pytest.mark.parametrize(
    ("size", "stem", "pools", "left"),
    [
        (32, True, [True, True, False], 4),
        (28, True, [True, True, False], 4),
        (16, True, [True, False, False], 4),
        (13, True, [True, False, False], 4),
        (8, True, [False, False, False], 4),
        (7, True, [False, False, False], 4),
        (6, False, [False, False, False], 6),
        (1, False, [False, False, False], 1),
        (None, True, [True, True, False], None),
    ],
)
def test_a_pooling_leaves_four_pixels(size, stem, pools, left):
    spec = make_stages(size, depth=3, channels=2)
    assert (spec.stem_pool, [block.pool for block in spec.blocks]) == (stem, pools)
    if left:
        features = torch.zeros(2, 3, size, size)
        network = path_of(Network(spec), "skip_connect")
        for part in (network.stem, *network.blocks):
            features = part(features)
        assert features.shape == (2, 8, left, left)


@pytest.mark.parametrize("space", ["chain", "stages"])
@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    [(8, 1, 8), (32, 1, 32), (64, 1, 64), (95, 1, 95), (96, 2, 48), (129, 2, 65), (191, 2, 96), (192, 4, 48),
     (224, 4, 56), (227, 4, 57), (2000, 4, 500)],
)  # fmt: skip
def test_the_stem_strides_as_images_are_large(space, size, stride, grid):
    config = Config(space=space, channels=2, depth=3)
    spec = make_spec(config, 3, 10, size)
    assert spec.stem_stride == stride
    stem = Network(spec).stem
    assert stem[0](torch.zeros(1, 3, size, size)).shape == (1, 2, grid, grid)
    for given in (1, 2, 4):
        assert make_spec(dataclasses.replace(config, stem_stride=given), 3, 10, size).stem_stride == given


@pytest.mark.parametrize(("size", "stride"), [(32, 2), (32, 4), (33, 4), (128, 2), (224, 4)])
def test_every_pixel_counts_in_a_stem_that_strides(size, stride):
    stem = Network(make_stages(size, channels=2, depth=3, stem_stride=stride)).stem
    x = torch.randn(2, 3, size, size, requires_grad=True)
    stem[0](x).sum().backward()
    assert (x.grad != 0).all()


def test_images_of_32_and_64_pixels_have_the_network_that_they_had():
    for size in (32, 64):
        spec = make_stages(size, channels=4, depth=3)
        assert "stem_stride" not in spec.to_dict()
        stem = Network(spec).stem[0]
        assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))


def test_a_large_image_costs_about_what_one_of_64_pixels_does():
    def flops(size):
        spec = path_of(Network(make_stages(size, channels=24, depth=3)), "nor_conv_3x3").spec
        return cost_of(spec, size).flops

    small = flops(64)
    assert small == pytest.approx(4 * flops(32), rel=0.001)
    assert flops(128) == pytest.approx(small, rel=0.001)
    assert small < flops(256) < 1.3 * small  # the kernel of the stem is larger
    assert flops(224) < small


def test_a_stem_that_strides_leaves_its_poolings_four_pixels():
    spec = make_stages(32, depth=3, channels=2, stem_stride=4)
    assert (spec.stem_pool, [block.pool for block in spec.blocks]) == (True, [False, False, False])
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_strides_of_the_stem_that_are_none_are_refused():
    with pytest.raises(ValueError, match="stem_stride must be one of 1, 2, 4, or None, got 3"):
        Config(stem_stride=3)
    with pytest.raises(ValueError, match="stem_stride is for the spaces chain and stages, got 2 for darts"):
        Config(space="darts", stem_stride=2)
    assert Config(space="darts", stem_stride=1).stem_stride == 1


def test_runs_of_before_have_a_stem_that_does_not_stride():
    values = Config(space="stages").to_dict()
    del values["stem_stride"]
    old = Config.from_dict(values)
    assert make_spec(old, 3, 10, 224).stem_stride == 1


class PlainNetwork(nn.Module):
    """Four times 3x3 convolution, norm and ReLU, with 2x2 max pooling after the first three; means, linear. The last
    norm has neither scale nor shift."""

    def __init__(self, channels, classes):
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels, 4 * channels]
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after, affine=before != after)
            )
            for before, after in pairs
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            x = F.max_pool2d(x, 2) if i < 3 else x
        return self.classifier(x.mean((2, 3)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("depth", [3, 6])
def test_the_plain_network_is_a_path(depth, training):
    network = randomize(Network(make_stages(32, depth=depth, channels=4)).double())
    network = path_of(network, "skip_connect", last="nor_conv_3x3")
    nn.init.ones_(network.evolvable_blocks()[-1].gain)
    plain = PlainNetwork(4, 10).double()
    values = [tensor for name, tensor in network.state_dict().items() if not name.endswith("gain")]
    plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
    x, y = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.arange(5)
    for model in (network, plain):
        F.cross_entropy(model.train(training)(x), y).backward()
    torch.testing.assert_close(network(x), plain(x), rtol=1e-10, atol=1e-12)
    weights = [p for name, p in network.named_parameters() if not name.endswith("gain")]
    for ours, theirs in zip(weights, plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_plain_network_of_32_channels_has_its_known_size():
    spec = path_of(Network(make_stages(32, depth=3, channels=32)), "skip_connect", last="nor_conv_3x3").spec
    # A block has a gain besides, and the norm of a candidate has neither scale nor shift.
    assert cost_of(spec, 32).parameters == 242_474 + 3 - 2 * 128


@pytest.mark.parametrize("fused", [True, False])
def test_a_residual_block_is_a_path(fused):
    """Of gain 1/2 it is half of x + f(x), and the norm that follows takes any factor out."""
    network = path_of(randomize(Network(make_stages(32, depth=3, channels=4)).double()), "res_conv_3x3")
    block = network.evolvable_blocks()[0]
    block.mixed.fused = fused
    nn.init.constant_(block.gain, 0.5)
    first, second = (block.mixed.ops["res_conv_3x3"][i] for i in (1, 4))
    x = torch.randn(3, 4, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last)

    def norm(z):
        return F.batch_norm(z, None, None, training=True)

    inner = norm(F.conv2d(F.relu(x), first.weight, padding=1))
    residual = x + norm(F.conv2d(F.relu(inner), second.weight, padding=1))
    torch.testing.assert_close(block(x), block.project(residual / 2), rtol=1e-9, atol=1e-10)


def test_specs_of_chains_say_what_they_always_said():
    spec = make_network(depth=4).spec.to_dict()
    assert spec.keys() == {"in_channels", "classes", "stem_channels", "blocks"}
    for block in spec["blocks"]:
        assert block.keys() == {"candidates", "in_channels", "out_channels", "stride", "project"}


def test_a_spec_survives_json():
    spec = make_stages(8, depth=5)
    values = json.loads(json.dumps(spec.to_dict()))
    assert values["skeleton"] == "stages"
    assert spec_from_dict(values) == spec
    del values["stem_pool"], values["blocks"][0]["kernel"]
    changed = spec_from_dict(values)
    assert (changed.stem_pool, changed.blocks[0].kernel) == (False, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 5}, "kernel of block 0 must be one of 1, 3, got 5"),
        ({"pool": 1}, "pool of block 0 must be true or false, got 1"),
        ({"kernel": 3, "project": False}, "block 0 lacks what its 3x3 kernel or its pooling belongs to"),
        ({"kernel": 1, "pool": True}, "block 0 lacks what its 3x3 kernel or its pooling belongs to"),
    ],
)
def test_a_block_that_is_none_is_refused(changes, message):
    block = BlockSpec(("none",), 4, 4, project=True, kernel=3)
    with pytest.raises(ValueError, match=message):
        NetworkSpec(3, 5, 4, (dataclasses.replace(block, **changes),), "stages").check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skeleton": "tree"}, "skeleton must be one of chain, stages, got 'tree'"),
        ({"stem_pool": "yes"}, "stem_pool must be true or false, got 'yes'"),
        ({"stem_stride": 3}, "stem_stride must be one of 1, 2, 4, got 3"),
    ],
)
def test_a_skeleton_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        spec_from_dict({**make_stages().to_dict(), **changes})


def test_the_narrowest_stage_beside_the_start_gets_wider_first():
    spec, order = make_stages(channels=4, depth=6), []
    assert (spec.widths, spec.proportions) == ((4, 8, 16), (1, 2, 4))
    for _ in range(5):
        stage = next_stage(spec)
        order.append(stage)
        spec = spec.wider(stage, round(1.5 * spec.widths[stage]))
        assert spec.proportions == (1, 2, 4)
    assert order == [2, 1, 0, 2, 1]


def test_blocks_that_growth_adds_have_no_transition():
    network = Network(make_stages(channels=4, depth=3, candidates=("skip_connect", "sep_conv_3x3")))
    positions = []
    for _ in range(3):
        positions.append(next_position(network))
        block = network.deepen(positions[-1])
        assert (block.spec.project, block.spec.kernel, block.spec.pool) == (False, 1, False)
    assert positions == [1, 4, 2]
    assert network.spec.widths == (4, 8, 16)


def test_costs_of_a_path_add_up():
    network = Network(make_stages(32, depth=4, channels=3))
    costs = candidate_costs(network.spec, 32)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        path = torch.randint(len(NAMES), (4,), generator=generator)
        found = cost_of(pruned_spec(network.derive(path.tolist()).spec), 32)
        rows = torch.arange(4)
        assert found.parameters == costs.fixed.parameters + int(costs.parameters[rows, path].sum())
        assert found.flops == costs.fixed.flops + int(costs.flops[rows, path].sum())
