"""The mixed operation: its plans agree with the formula and with each other."""

import copy

import pytest
import torch
from torch import nn

from asose_fast.space import CANDIDATES, MixedOp

NAMES = tuple(CANDIDATES)
GAINS = [None, 0.3]


def gain_of(value):
    return None if value is None else torch.tensor(value, dtype=torch.float64, requires_grad=True)


def make_mixed(stride=1, names=NAMES, fused="auto"):
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    return MixedOp.named(names, 4, stride, fused=fused).double(), x.requires_grad_()


def formula(mixed, x, weights, gain):
    y = sum(w * op(x) for w, op in zip(weights, mixed.ops.values(), strict=True))
    return y if gain is None else gain * y + (1 - gain) * x


def gradients(y, tensors):
    grad = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad(y, tensors, grad, allow_unused=True)


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        a, b = (torch.zeros(()) if t is None or not t.any() else t for t in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, check_dtype=False)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("stride", "gain"), [(1, None), (1, 0.3), (2, None)])
def test_soft_plan_is_the_weighted_sum(stride, gain, fused):
    mixed, x = make_mixed(stride, fused=fused)
    weights = torch.rand(10, dtype=torch.float64).softmax(0).requires_grad_()
    gain = gain_of(gain)
    leaves = [x, weights, *mixed.parameters(), *([] if gain is None else [gain])]
    got, expected = mixed(x, weights, gain=gain), formula(mixed, x, weights, gain)
    torch.testing.assert_close(got, expected)
    assert_same(gradients(got, leaves), gradients(expected, leaves))


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("stride", "gain"), [(1, None), (1, 0.3), (2, None)])
def test_hard_plans_agree_with_the_formula(stride, gain, index, fused):
    """Sampled plan: value and weight gradients; straight-through plan: those and the gradient of every w_k."""
    mixed, x = make_mixed(stride, fused=fused)
    weights = torch.zeros(10, dtype=torch.float64)
    weights[index] = 1.0
    weights.requires_grad_()
    gain = gain_of(gain)
    own = [x, *mixed.parameters(), *([] if gain is None else [gain])]
    expected = formula(mixed, x, weights, gain)
    both = mixed(x, weights, index, gain=gain)
    torch.testing.assert_close(both, expected)
    assert_same(gradients(both, [weights, *own]), gradients(expected, [weights, *own]))
    sampled = mixed(x, index=index, gain=gain)
    torch.testing.assert_close(sampled, expected)
    if sampled.requires_grad:
        assert_same(gradients(sampled, own), gradients(formula(mixed, x, weights, gain), own))
    else:
        assert NAMES[index] == "none"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("index", range(len(NAMES)))
@pytest.mark.parametrize("stride", [1, 2])
def test_sampled_paths_run_in_bfloat16(stride, index, fused):
    torch.manual_seed(0)
    exact = MixedOp.named(NAMES, 4, stride, fused=fused)
    rounded = copy.deepcopy(exact).bfloat16()
    x, gain = torch.randn(3, 4, 6, 6).bfloat16(), torch.tensor(0.25)

    def blended(mixed, x, gain):
        return mixed(x, None, index, gain=gain, shortcut=x if stride == 1 else x[:, :, ::2, ::2])

    expected = blended(exact, x.float(), gain)
    y = blended(rounded, x.requires_grad_(), gain.bfloat16())
    y.sum().backward()
    assert (y.dtype, y.shape) == (torch.bfloat16, expected.shape)
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)


def test_every_plan_updates_the_statistics_of_what_it_runs():
    mixed, x = make_mixed()
    counts = {name: [m for m in op.modules() if isinstance(m, nn.BatchNorm2d)] for name, op in mixed.ops.items()}
    mixed(x, index=4)
    assert {n for n, norms in counts.items() if any(m.num_batches_tracked for m in norms)} == {"sep_conv_3x3"}
    mixed(x, torch.eye(10, dtype=torch.float64)[4], 4)
    assert all(int(m.num_batches_tracked) == 1 + (n == "sep_conv_3x3") for n, norms in counts.items() for m in norms)


def test_output_is_channels_last():
    mixed, x = make_mixed()
    weights = torch.rand(10, dtype=torch.float64)
    for y in (mixed(x, weights), mixed(x, index=5), mixed(x, weights, gain=gain_of(0.5))):
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_a_single_candidate_needs_no_choice():
    mixed, x = make_mixed(names=("sep_conv_3x3",))
    assert torch.equal(mixed(x), copy.deepcopy(mixed)(x, index=0))


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="needs at least one candidate"):
        MixedOp.named((), 4, 1)
    with pytest.raises(ValueError, match="did you mean 'max_pool_3x3'"):
        MixedOp.named(("none", "maxpool_3x3"), 4, 1)
    mixed, x = make_mixed(names=("none", "skip_connect"))
    with pytest.raises(ValueError, match="a mixed operation of 2 candidates needs weights or the index of one"):
        mixed(x)


def test_compiles_without_a_graph_break():
    names = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
    mixed = MixedOp.named(names, 4, 1)
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    weights = torch.rand(4).softmax(0).requires_grad_()
    gain = torch.tensor(0.5, requires_grad=True)
    results = []
    for run in (mixed, torch.compile(mixed, fullgraph=True)):
        y = run(x, weights, gain=gain)
        results.append((y, *gradients(y, [weights, gain, *mixed.parameters()])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
