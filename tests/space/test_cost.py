"""Parameters and FLOPs of the largest network that can be derived."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from asose_fast.config import CANDIDATES
from asose_fast.space import Network
from asose_fast.space.cost import largest_derived
from asose_fast.space.prune import pruned
from tests.helpers import FEW, OF_BLOCKS, make_network


@pytest.mark.parametrize("names", [FEW, ("none", "dil_conv_5x5", "conv_7x1_1x7"), ("skip_connect",)])
@pytest.mark.parametrize("space", OF_BLOCKS)
def test_no_path_costs_more_and_one_costs_as_much(names, space):
    network = make_network(names, depth=2, space=space).eval()
    parameters, flops = [], []
    for path in itertools.product(range(len(names)), repeat=2):
        derived = pruned(network.derive(path))
        parameters.append(sum(p.numel() for p in derived.parameters()))
        with FlopCounterMode(display=False) as counter:
            derived(torch.zeros(1, 3, 9, 9))
        flops.append(counter.get_total_flops())
    assert largest_derived(network.spec, 9) == (max(parameters), max(flops))


def test_flops_by_hand():
    """One block of a 5x5 separable convolution, 4 channels, on 8x8 images of 3 channels, 5 classes."""
    pixels = 64
    stem = 2 * pixels * 4 * 3 * 9
    convolution = 2 * (2 * pixels * 4 * 25 + 2 * pixels * 4 * 4)
    assert largest_derived(make_network(("sep_conv_5x5",), depth=1).spec, 8).flops == stem + convolution + 2 * 4 * 5


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_every_growth_costs_more(space):
    spec = make_network(CANDIDATES[:5], depth=4, space=space).spec
    cost = largest_derived(spec, 8)
    for grown in (spec.deeper(2), spec.wider(1, 9), spec.with_candidate("sep_conv_7x7")):
        more = largest_derived(grown, 8)
        assert more.parameters > cost.parameters
        assert more.flops > cost.flops
        assert more.parameters <= sum(p.numel() for p in Network(grown).parameters())
