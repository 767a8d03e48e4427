"""Inverted bottlenecks as candidates, and the space mobile that they make."""

import copy

import pytest
import torch
from torch.nn import functional as F

from asose_fast.config import SPACE_CANDIDATES, Config
from asose_fast.engine.comparison.networks import pruned_blocks
from asose_fast.engine.front.networks import Supernet, networks
from asose_fast.space import Network
from asose_fast.space.build import make_spec, spec_from_dict
from asose_fast.space.candidates import build_candidate
from asose_fast.space.cost import candidate_costs, cost_of
from asose_fast.space.latency import Target
from asose_fast.space.parts import convolution
from asose_fast.space.prune import pruned_spec
from asose_fast.space.widen import widen
from asose_fast.train import main as train
from tests.growth_cases import randomize
from tests.helpers import options
from tests.space.test_stacked import assert_close, pair, results

NAMES = SPACE_CANDIDATES["mobile"]
BOTTLENECKS = NAMES[1:]


def make_mobile(image_size=None, classes=10, **settings):
    return make_spec(Config(space="mobile", **settings), 3, classes, image_size)


def as_written(op, x, kernel, stride, squeeze):
    """The bottleneck of a candidate's parameters, by functions of PyTorch."""

    def norm(y):
        return F.batch_norm(y, None, None, training=True)

    weights = list(op.parameters())
    hidden = norm(F.conv2d(x, weights[0])).relu()
    hidden = norm(F.conv2d(hidden, weights[1], None, stride, kernel // 2, groups=len(weights[1]))).relu()
    if squeeze:
        down, down_bias, up, up_bias = weights[2:6]
        mean = hidden.mean((2, 3), keepdim=True)
        hidden = hidden * F.conv2d(F.conv2d(mean, down, down_bias).relu(), up, up_bias).sigmoid()
    return norm(F.conv2d(hidden, weights[-1]))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", BOTTLENECKS)
def test_a_bottleneck_is_what_it_is_called(name, stride):
    kernel, expansion = int(name[7]), int(name[12])
    op, x = build_candidate(name, 8, stride).double(), torch.randn(3, 8, 9, 7, dtype=torch.float64)
    weights = list(op.parameters())
    assert weights[0].shape == (8 * expansion, 8, 1, 1)
    assert weights[1].shape == (8 * expansion, 1, kernel, kernel)
    torch.testing.assert_close(op(x), as_written(op, x, kernel, stride, name.endswith("se")), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("index", [None, 0, 3, 6])
@pytest.mark.parametrize(("stride", "gain"), [(1, None), (1, 0.3), (2, 0.3)])
@pytest.mark.parametrize("train", [True, False])
def test_plans_agree(train, index, stride, gain):
    plain, stacked = pair(NAMES, 5, stride, torch.float64, train=train)
    weights = (torch.rand(len(NAMES)) if index is None else torch.eye(len(NAMES))[index]).double()
    x = torch.randn(3, 5, 9, 8, dtype=torch.float64)
    assert_close(results(stacked, x, weights, index, gain), results(plain, x, weights, index, gain), 1e-10)


def test_the_stacked_plan_runs_depthwise_convolutions_with_their_relu_on_a_kernel(monkeypatch):
    _, stacked = pair(BOTTLENECKS, 4, 1, torch.float32)
    seen, run = [], convolution.multi_depthwise
    monkeypatch.setattr(convolution, "multi_depthwise", lambda x, w, **k: seen.append(w[0].shape[-1]) or run(x, w, **k))
    stacked(torch.randn(2, 4, 8, 8), torch.rand(len(BOTTLENECKS)))
    assert seen == [5, 5, 5]
    monkeypatch.setattr(convolution, "LARGE", 0)
    stacked(torch.randn(2, 4, 8, 8), torch.rand(len(BOTTLENECKS)))
    assert seen[3:] == [3, 3, 5, 5, 3, 5]


@pytest.mark.parametrize("channels", [5, 7, 8, 12, 30])
@pytest.mark.parametrize("training", [True, False])
def test_a_wider_network_is_the_same_function(channels, training):
    """Squeezed channels follow too, so that the wider network is built from its spec."""
    torch.manual_seed(0)
    network = randomize(Network(make_mobile(channels=4, depth=3))).double().train(training)
    x, weights = torch.randn(4, 3, 12, 12, dtype=torch.float64), torch.rand(3, len(NAMES), dtype=torch.float64)
    with torch.no_grad():
        before = copy.deepcopy(network)(x, weights)
        widen(network, 0, channels)
        torch.testing.assert_close(copy.deepcopy(network)(x, weights), before, rtol=1e-8, atol=1e-10)
        again = Network(network.spec).double().train(training)
        again.load_state_dict(network.state_dict())
        torch.testing.assert_close(again(x, weights), before, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("depth", "size", "shapes"),
    [
        (1, 32, [(8, 8, 1)]),
        (4, 32, [(8, 8, 1), (8, 16, 2), (16, 32, 2), (32, 64, 2)]),
        (6, 32, [(8, 8, 1), (8, 16, 2), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]),
        (4, 8, [(8, 8, 1), (8, 16, 2), (16, 32, 1), (32, 64, 1)]),
        (4, None, [(8, 8, 1), (8, 16, 2), (16, 32, 2), (32, 64, 2)]),
    ],
)
def test_the_plan(depth, size, shapes):
    spec = make_mobile(size, channels=8, depth=depth)
    assert [(block.in_channels, block.out_channels, block.stride) for block in spec.blocks] == shapes
    assert all(block.candidates == NAMES for block in spec.blocks)
    assert spec_from_dict(spec.to_dict()) == spec
    assert spec.proportions == (1, 2, 4, 8)[: len(spec.widths)]


def test_costs_of_candidates_add_up():
    spec = make_mobile(16, channels=4, depth=4)
    costs = candidate_costs(spec, 16)
    for path in ([0, 1, 2, 3], [6, 5, 4, 0], [1, 1, 1, 1]):
        own = cost_of(pruned_spec(spec.derive(path)), 16)
        rows = torch.arange(4), torch.tensor(path)
        assert own.parameters == costs.fixed.parameters + int(costs.parameters[rows].sum())
        assert own.flops == costs.fixed.flops + int(costs.flops[rows].sum())


def test_kernel_expansion_depth_and_width_are_chosen_within_bounds():
    """The networks of a front are those of one search, in the widths that are asked for."""
    spec = make_mobile(32, channels=8, depth=6)
    scores = torch.randn(6, len(NAMES), generator=torch.Generator().manual_seed(0)).log_softmax(1)
    found = pruned_blocks(spec.derive(scores.argmax(1).tolist()))
    chosen = networks(Supernet(spec, scores), found, 32, "flops", [1.0, 0.5], 5, Target())
    assert {one.stem_channels for one in chosen} == {8, 4}
    assert len({len(one.blocks) for one in chosen}) > 1
    operations = {block.candidates[0] for one in chosen for block in one.blocks}
    assert {name.split("_")[1] for name in operations if name != "skip_connect"} == {"3x3", "5x5"}
    assert {name.split("_")[2] for name in operations if name != "skip_connect"} >= {"e3", "e6"}


def test_a_search_from_the_first_batch_to_the_report(tmp_path):
    grown = {"growth_epochs": 3, "growth_patience": 1, "growth_threshold": 99.0, "opening_steps": 2}
    words = options(space="mobile", candidates=NAMES[:2], depth=3, **grown)
    assert train([*words, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").exists()
