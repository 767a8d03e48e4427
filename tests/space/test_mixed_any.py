"""Mixed operations of any modules."""

import copy
import pickle

import pytest
import torch
from torch import nn

from asose_fast import MixedOp
from asose_fast.space import build_candidate
from asose_fast.space.mixed import Plan

FUSED = ("sep_conv_3x3", "avg_pool_3x3", "max_pool_3x3", "dil_conv_5x5")


class Own(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1)

    def forward(self, x):
        return self.conv(x).sigmoid()


def candidates(stride, channels=4):
    return {**{name: build_candidate(name, channels, stride) for name in FUSED}, "own": Own(channels, stride)}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("index", [None, 1, 4])
def test_known_candidates_are_fused_beside_others(stride, index):
    fused = MixedOp(candidates(stride), fused=True).double()
    plain = copy.deepcopy(fused)
    plain.fused = False
    assert fused.stride == stride
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    results = []
    for mixed in (fused, plain):
        weights = (
            torch.full((5,), 0.2, dtype=torch.float64) if index is None else torch.eye(5, dtype=torch.float64)[index]
        )
        weights, leaf = weights.requires_grad_(), x.clone().requires_grad_()
        y = mixed(leaf, weights, index)
        y.square().sum().backward()
        results.append((y, weights.grad, leaf.grad, mixed.ops["own"].conv.weight.grad))
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_fused_where_only_the_channels_change():
    def branch(kernel):
        return nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, kernel, 2, kernel // 2), nn.BatchNorm2d(6))

    fused = MixedOp({"a": branch(1), "b": branch(3)}, fused=True).double()
    plain = copy.deepcopy(fused)
    plain.fused = False
    x, weights = torch.randn(3, 4, 7, 7, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert fused(x, weights).shape == (3, 6, 4, 4)
    torch.testing.assert_close(fused(x, weights), plain(x, weights))


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 7, 5), (2, 3, 4, 6, 5)])
def test_any_shape(shape):
    mixed = MixedOp({"linear": nn.Linear(5, 5), "skip": nn.Identity()}).double()
    x, weights = torch.randn(shape, dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
    torch.testing.assert_close(mixed(x, weights), 0.25 * mixed.ops["linear"](x) + 0.75 * x)


@pytest.mark.parametrize("fused", [True, False])
def test_outputs_of_another_shape_are_named(fused):
    ops = candidates(1) if fused else {"linear": nn.Identity()}
    mixed = MixedOp({**ops, "narrow": nn.Conv2d(4, 3, 1)}, fused=fused)
    with pytest.raises(ValueError, match=r"candidate narrow returned the shape \(2, 3, 8, 8\).*\(2, 4, 8, 8\)"):
        mixed(torch.randn(2, 4, 8, 8), torch.rand(len(mixed.ops)))


def test_what_returns_no_tensor_is_named():
    mixed = MixedOp({"skip": nn.Identity(), "lstm": nn.LSTM(4, 4)})
    with pytest.raises(ValueError, match="candidate lstm returned a tuple; a candidate must return one tensor"):
        mixed(torch.randn(3, 2, 4), torch.rand(2))


def test_what_changes_its_input_is_named():
    mixed = MixedOp({"skip": nn.Identity(), "relu": nn.ReLU(inplace=True)})
    with pytest.raises(ValueError, match="candidate relu changes its input in place"):
        mixed(torch.randn(3, 4), torch.rand(2))


@pytest.mark.parametrize(
    ("ops", "error", "message"),
    [
        ({}, ValueError, "at least one candidate"),
        (("none", "skip_connect"), TypeError, "dict of modules by name, got tuple.*MixedOp.named"),
        ({"a": torch.tanh}, TypeError, "candidate 'a' must be a module, got builtin"),
        ({"a.b": nn.Tanh()}, ValueError, "names without dots.*'a.b'"),
        ({"keys": nn.Tanh()}, ValueError, "does not use itself, got 'keys'"),
    ],
)
def test_refused(ops, error, message):
    with pytest.raises(error, match=message):
        MixedOp(ops)


def test_one_module_under_two_names_is_refused():
    module = nn.Tanh()
    with pytest.raises(ValueError, match="'a' and 'b' are one and the same module"):
        MixedOp({"a": module, "b": module})


def test_the_plan_is_what_runs_and_is_left_out_of_copies():
    mixed = MixedOp({"tanh": nn.Tanh(), "skip": nn.Identity()})
    x = torch.randn(3)
    with pytest.raises(ValueError, match="needs weights or the index of one: give them, or have asose"):
        mixed(x)
    mixed.plan = Plan(weights=1.0 * torch.tensor([0.5, 0.5], requires_grad=True))
    torch.testing.assert_close(mixed(x), (x.tanh() + x) / 2)
    assert torch.equal(mixed(x, index=1), x)
    assert copy.deepcopy(mixed).plan is None
    assert pickle.loads(pickle.dumps(mixed)).plan is None
