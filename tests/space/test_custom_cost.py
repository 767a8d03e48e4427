"""The costs of what can be derived from a user's model are those of the derived models."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from asose_fast import MixedOp
from asose_fast.space import CANDIDATES
from asose_fast.space.custom import CustomNetwork
from asose_fast.space.custom_cost import custom_costs
from tests.library.networks import Choices


class Model(nn.Module):
    """Each row has candidates of its own: one runs twice, one has fused candidates, one a transformer layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = MixedOp({"conv": nn.Conv2d(4, 4, 3, padding=1), "skip": nn.Identity()})
        fused = {name: CANDIDATES[name](4, 1) for name in ("sep_conv_3x3", "max_pool_3x3")}
        self.fused = MixedOp({**fused, "linear": nn.Linear(6, 6)}, fused=True)
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.tokens = MixedOp({"attention": layer, "mlp": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 2)
        self.frozen_norm = nn.BatchNorm2d(4).eval()

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        x = self.frozen_norm(self.fused(x))
        return self.head(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))


def test_sums_are_the_costs_of_the_derived_models():
    torch.manual_seed(0)
    network = CustomNetwork(Model())
    x = torch.randn(3, 3, 5, 6)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    costs = custom_costs(network, x, 3)
    assert network.training
    assert all(op.plan is None for op in network.mixed.values())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    paths = list(itertools.product(*network.columns))
    assert len(paths) == 12
    for path in paths:
        derived = network.derive(path).eval()
        with FlopCounterMode(display=False) as counter:
            derived(x[:1])
        spent = [sum(int(table[row, k]) for row, k in enumerate(path)) for table in costs[:2]]
        assert costs.fixed.parameters + spent[0] == sum(p.numel() for p in derived.parameters())
        assert costs.fixed.flops + spent[1] == counter.get_total_flops() > 0


def test_what_a_row_does_not_have_costs_what_its_first_candidate_does():
    network = CustomNetwork(Model())
    costs = custom_costs(network, torch.randn(3, 3, 5, 6), 3)
    for table in costs[:2]:
        for row, columns, open_ in zip(table, network.columns, network.available, strict=True):
            assert (row[~open_] == row[columns[0]]).all()


def test_shared_parameters_outside_count_once():
    inside, outside = nn.Linear(3, 3), nn.Linear(3, 3)
    inside.weight = outside.weight
    network = CustomNetwork(nn.Sequential(outside, MixedOp({"tied": inside, "skip": nn.Identity()})))
    costs = custom_costs(network, torch.randn(2, 3), 2)
    assert costs.parameters.tolist() == [[3, 0]]
    assert costs.fixed == (12, 18)


def test_a_mixed_operation_within_a_candidate_has_no_cost_of_its_own():
    with pytest.raises(ValueError, match=r"'layers\.0\.ops\.deep\.1' is within a candidate of 'layers\.0'"):
        custom_costs(CustomNetwork(Choices()), torch.randn(2, 3), 2)
