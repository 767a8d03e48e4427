"""The networks of a comparison: of one size, different, of the space that was searched; and plain ones."""

import dataclasses

import pytest

from asose_fast.config import CANDIDATES, SPACE_CANDIDATES
from asose_fast.engine.alpha.budget import Budget
from asose_fast.engine.comparison.networks import (
    BANDS,
    PLAIN,
    Band,
    plain_network,
    pruned_blocks,
    random_networks,
    searched_space,
)
from asose_fast.space import NetworkSpec
from asose_fast.space.cost import Cost, cost_of
from asose_fast.store import checkpoint
from tests.helpers import make_config

SIZE = 8


def make_space(candidates=CANDIDATES, depth=4, space="chain", channels=4):
    config = make_config(space=space, candidates=candidates, depth=depth, channels=channels)
    if space == "stages":
        return NetworkSpec.stages(config, 1, 10, SIZE)
    return NetworkSpec.chain(config, 1, 10)


def derive(space, *names):
    blocks = zip(space.blocks, names, strict=True)
    return dataclasses.replace(space, blocks=tuple(dataclasses.replace(b, candidates=(n,)) for b, n in blocks))


@pytest.mark.parametrize("space", ["chain", "stages"])
def test_random_networks_are_of_the_size_and_different(space):
    space = make_space(SPACE_CANDIDATES[space], depth=6, space=space)
    found = pruned_blocks(derive(space, *["sep_conv_3x3", "skip_connect", "dil_conv_5x5"] * 2))
    own = cost_of(found, SIZE)
    networks, band = random_networks(space, found, SIZE, 12, seed=0)
    assert len({*networks, found}) == 13
    for network in networks:
        cost = cost_of(network, SIZE)
        assert abs(cost.parameters / own.parameters - 1) <= band.parameters
        assert abs(cost.flops / own.flops - 1) <= band.flops
        assert network == pruned_blocks(network)
        assert {block.candidates[0] for block in network.blocks} <= {*space.blocks[0].candidates}
    assert random_networks(space, found, SIZE, 12, seed=0) == (networks, band)
    assert random_networks(space, found, SIZE, 4, seed=0)[0] == networks[:4]
    assert random_networks(space, found, SIZE, 12, seed=1)[0] != networks


def test_one_network_is_not_drawn_as_two():
    """skip_connect is the identity, so that its place among blocks of one shape does not matter."""
    space = make_space(("skip_connect", "sep_conv_3x3"), depth=6)
    found = pruned_blocks(derive(space, *["sep_conv_3x3"] * 4, "skip_connect", "skip_connect"))
    networks, _ = random_networks(space, found, SIZE, 5, seed=0)
    assert len({*networks, found}) == 6


def test_a_band_with_too_few_networks_becomes_wider_and_says_so():
    space = make_space(depth=2)
    found = derive(space, "sep_conv_3x3", "dil_conv_5x5")
    bands = {count: random_networks(space, found, SIZE, count, seed=0)[1] for count in (2, 4, 8)}
    assert [*bands.values()] == sorted(bands.values())
    assert bands[2] != bands[8]
    assert Band(0.4, 0.2).words == "within 40 % in parameters and 20 % in FLOPs"


def test_too_few_networks_are_an_error_that_says_how_many_there_are():
    space = make_space(("skip_connect", "sep_conv_3x3", "sep_conv_5x5"), depth=2)
    found = derive(space, "sep_conv_3x3", "sep_conv_3x3")
    with pytest.raises(
        ValueError, match=r"only 2 random networks are within 40 % .*, where 50 are asked for: .*random 2"
    ):
        random_networks(space, found, SIZE, 50, seed=0)
    alone = make_space(("sep_conv_3x3",), depth=2)
    with pytest.raises(ValueError, match="the search had nothing to choose"):
        random_networks(alone, found, SIZE, 2, seed=0)


def test_a_band_bounds_both_costs_on_both_sides():
    assert Band(0.1, 0.05).around(Cost(999, 2001)) == Budget(1098, 2101, 900, 1901)


@pytest.mark.parametrize("operation", PLAIN)
@pytest.mark.parametrize("channels", [1, 7, 40])
def test_a_plain_network_is_found_again_by_its_size(operation, channels):
    plain = make_space((operation,), depth=3, space="stages", channels=channels)
    assert plain_network(cost_of(plain, SIZE), 1, 10, SIZE) == plain


def test_the_stem_of_a_plain_network_strides_as_that_of_the_found_one():
    config = make_config(space="stages", candidates=("nor_conv_3x3",), depth=3, channels=7, stem_stride=2)
    plain = NetworkSpec.stages(config, 1, 10, 32)
    assert plain.stem_stride == 2
    assert plain_network(cost_of(plain, 32), 1, 10, 32, stem_stride=2) == plain


@pytest.mark.parametrize("cost", [Cost(50, 10_000), Cost(20_000, 400_000), Cost(30_000, 10**8), Cost(10**6, 10**7)])
def test_no_other_plain_network_is_nearer_in_size(cost):
    distance = BANDS[0].distance(cost_of(plain_network(cost, 1, 10, SIZE), SIZE), cost)
    for operation in PLAIN:
        for channels in (1, 2, 4, 8, 9, 10, 12, 16, 24, 32, 64):
            other = make_space((operation,), depth=3, space="stages", channels=channels)
            assert distance <= BANDS[0].distance(cost_of(other, SIZE), cost)


def test_the_space_is_that_of_the_supernet_or_of_the_blocks_that_are_left(tmp_path):
    space = make_space(depth=3)
    found = pruned_blocks(derive(space, "skip_connect", "sep_conv_3x3", "nor_conv_3x3"))
    left = searched_space(tmp_path, found, CANDIDATES)
    assert [block.candidates for block in left.blocks] == [(*CANDIDATES, "nor_conv_3x3")] * 2
    (tmp_path / "checkpoints").mkdir()
    checkpoint.save(tmp_path / "checkpoints" / "supernet.pt", {"spec": space.to_dict()})
    assert searched_space(tmp_path, found, CANDIDATES) == space
