"""Growth of the network keeps its function: random networks and sequences of growths in depth, width and branches."""

import json

import pytest
import torch

from asose_fast.config import CANDIDATES, SPACE_CANDIDATES
from asose_fast.space import Network, NetworkSpec
from tests.growth_cases import KINDS, differences, outputs, random_case
from tests.helpers import FEW, OF_BLOCKS, make_batch, make_network

CASES = 200
SHORT = 40
"""Cases of the plain test command; the others are long."""
BOUND = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=pytest.mark.long if first >= SHORT else ()) for first in range(0, CASES, 10)]
)
@pytest.mark.parametrize("space", OF_BLOCKS)
def test_the_function_stays(space, first):
    for seed in range(first, first + 10):
        case = random_case(seed, space)
        for name, error in differences(case).items():
            assert error <= BOUND[case.x.dtype], f"case {seed}, {case.kinds}, {name}: {error}"


def test_the_cases_cover_what_they_should():
    cases = [random_case(seed) for seed in range(0, CASES, 2)]
    specs = [case.before.spec for case in cases]
    for kind in KINDS:
        assert sum(kind in case.kinds for case in cases) > 30
    assert {len(spec.blocks) for spec in specs} == {1, 2, 3, 4}
    assert {name for spec in specs for name in spec.blocks[0].candidates} == set(CANDIDATES)
    blocks = [block for spec in specs for block in spec.blocks]
    assert {(block.stride, block.project) for block in blocks} == {(1, False), (1, True), (2, False), (2, True)}
    assert {block.in_channels for block in blocks} == set(range(2, 10))
    grown = [block for case in cases for block in case.grown.spec.blocks]
    assert any(block.project and block.in_channels == block.out_channels for block in grown)
    live = [outputs(case.before.eval(), case, 0, "soft") for case in cases]
    assert sum(float((y - y.mean(0)).abs().max() / y.abs().max()) > 0.05 for y in live) > 0.9 * len(cases)


@pytest.mark.parametrize("seed", range(0, CASES, 20))
@pytest.mark.parametrize("space", OF_BLOCKS)
def test_a_grown_network_is_built_again_from_its_spec(space, seed):
    case = random_case(seed, space)
    spec = NetworkSpec.from_dict(json.loads(json.dumps(case.grown.spec.to_dict())))
    assert spec == case.grown.spec
    again = Network(spec).to(case.x.dtype, memory_format=torch.channels_last)
    again.load_state_dict(case.grown.state_dict())
    for network in (again, case.grown):
        network.eval()
    for plan in ("soft", "derived"):
        assert torch.equal(outputs(again, case, 1, plan), outputs(case.grown, case, 1, plan))
    layouts = [[p.stride() for p in network.parameters()] for network in (again, case.grown)]
    assert layouts[0] == layouts[1]
    assert repr(again) == repr(case.grown)  # the sizes that the modules say they have


def test_a_derived_network_of_a_grown_one_is_built_again_from_its_spec():
    case = random_case(3)
    derived = case.grown.derive(case.paths[1]).eval()
    again = Network(NetworkSpec.from_dict(derived.spec.to_dict())).double().eval()
    again.load_state_dict(derived.state_dict())
    torch.testing.assert_close(again(case.x), derived(case.x), rtol=1e-12, atol=0)


def test_the_cases_of_stages_cover_what_they_should():
    cases = [random_case(seed, "stages") for seed in range(0, CASES, 2)]
    specs = [case.before.spec for case in cases]
    for kind in KINDS:
        assert sum(kind in case.kinds for case in cases) > 30
    assert {name for spec in specs for name in spec.blocks[0].candidates} == set(SPACE_CANDIDATES["stages"])
    assert {(block.kernel, block.pool) for spec in specs for block in spec.blocks} == {
        (1, False),
        (3, False),
        (3, True),
    }
    assert {spec.stem_pool for spec in specs} == {False, True}


def test_stages_and_their_channels():
    spec = make_network(FEW, depth=6, channels=4).spec
    assert spec.widths == (4, 8, 16)
    assert spec.wider(0, 5).widths == (5, 8, 16)
    assert spec.wider(1, 11).widths == (4, 11, 16)
    wide = spec.wider(0, 8)
    assert (wide.stem_channels, wide.blocks[1].in_channels, wide.blocks[1].out_channels) == (8, 8, 8)
    assert wide.blocks[1].project
    assert wide.blocks[1].reduces
    assert wide.widths == (8, 8, 16)
    assert wide.deeper(2).widths == wide.widths
    assert wide.deeper(2).blocks[2].project is False


@pytest.mark.parametrize(
    ("stage", "channels", "message"),
    [
        (3, 99, "stage must be from 0 to 2, got 3"),
        (-1, 99, "stage must be from 0 to 2, got -1"),
        (1, 8, "stage 1 has 8 channels; wider needs more, got 8"),
    ],
)
def test_what_cannot_be_wider_is_refused(stage, channels, message):
    with pytest.raises(ValueError, match=message):
        make_network(FEW).spec.wider(stage, channels)


def test_a_new_candidate_is_the_last_of_every_block_and_like_the_rest():
    network = make_network(FEW).double().eval()
    added = network.add_candidate("conv_7x1_1x7")
    for block, op in zip(network.blocks, added, strict=True):
        assert list(block.mixed.ops) == list(block.spec.candidates) == [*FEW, "conv_7x1_1x7"]
        assert block.mixed.ops["conv_7x1_1x7"] is op
        assert not op.training
        assert op[1].weight.dtype == torch.float64
        assert op[1].weight.is_contiguous(memory_format=torch.channels_last)
        assert op[2].stride == (block.spec.stride, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("skip_connect", "skip_connect cannot be added to the candidates: it is one of them"),
        ("sep_conv_4x4", "unknown candidate 'sep_conv_4x4': did you mean"),
    ],
)
def test_a_candidate_that_cannot_be_added_is_refused_and_changes_nothing(name, message):
    network = make_network(FEW)
    before = network.spec, list(network.state_dict())
    with pytest.raises(ValueError, match=message):
        network.add_candidate(name)
    assert before == (network.spec, list(network.state_dict()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CANDIDATES)
def test_a_new_block_is_the_identity_in_the_fused_plan_of_a_path(name, training):
    """A gain of 0 must not be taken for a missing one."""
    network = make_network((name,), depth=1).train(training)
    x = make_batch()[0]
    for block in (network.deepen(1), network.blocks[0]):
        block.mixed.fused = True
    features = network.blocks[0](network.stem(x), index=0).detach()
    assert torch.equal(network.blocks[1](features, index=0), features)
