"""A pooling that runs alone computes what its module does, on kernels where these are faster."""

import copy

import pytest
import torch

from asose_fast.ops import registry
from asose_fast.space import MixedOp
from asose_fast.space.candidates import build_candidate
from asose_fast.space.parts import on_kernels as parts_of
from asose_fast.space.parts import pool

needs_kernels = pytest.mark.skipif(
    not registry.has_kernels("pool_pair", "cpu", torch.float32), reason="the kernels are not built"
)


@pytest.fixture
def on_kernels(monkeypatch):
    """What the operator is called for. All tensors are large enough for it."""
    seen, function = [], pool.pool_3x3

    def call(x, **options):
        seen.append(options)
        return function(x, **options)

    monkeypatch.setattr(pool, "pool_3x3", call)
    monkeypatch.setattr(pool, "AVERAGES", 0)
    monkeypatch.setattr(pool, "MAXIMA", 0)
    monkeypatch.setattr(pool, "OTHERS", 0)
    return seen


@needs_kernels
@pytest.mark.parametrize("fused", [True, "auto"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["avg_pool_3x3", "max_pool_3x3"])
def test_a_lone_pooling_is_that_of_its_module(name, stride, fused, on_kernels):
    mixed = MixedOp.named((name, "sep_conv_3x3"), 4, stride, fused=True).double()
    plain = copy.deepcopy(mixed)
    plain.fused = False
    gain = torch.tensor(0.3, dtype=torch.float64)
    mixed.fused = fused
    results = []
    for op in (mixed, plain):
        torch.manual_seed(0)
        x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
        shortcut = x if stride == 1 else torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        y = op(x, None, 0, gain=gain, shortcut=shortcut)
        results.append([y, *torch.autograd.grad(y.square().sum(), x), *op.buffers()])
    torch.testing.assert_close(*results)
    assert on_kernels == [{"maximum": name == "max_pool_3x3", "stride": stride}]


@needs_kernels
def test_one_pooling_among_sampled_candidates_runs_on_kernels(on_kernels):
    mixed = MixedOp.named(("avg_pool_3x3", "max_pool_3x3", "sep_conv_3x3"), 4, 1, fused=True)
    x, weights = torch.randn(2, 4, 7, 6), torch.rand(3)
    mixed(x, weights, None, (0, 1, 2))
    assert not on_kernels
    mixed(x, weights, None, (1, 2))
    assert on_kernels == [{"maximum": True, "stride": 1}]


def test_what_is_another_pooling_or_watched_is_left_as_it_is():
    hooked = build_candidate("max_pool_3x3", 4, 1)[0]
    hooked.register_forward_hook(lambda *_: None)
    others = [hooked, torch.nn.MaxPool2d(2), torch.nn.AvgPool2d(3, 1, 1), torch.nn.ReLU()]
    assert parts_of(others) == others


@needs_kernels
@pytest.mark.parametrize(
    ("name", "stride", "shape", "faster"),
    [
        ("avg_pool_3x3", 1, (64, 16, 8, 8), True),
        ("avg_pool_3x3", 1, (63, 16, 8, 8), False),
        ("avg_pool_3x3", 2, (64, 16, 32, 32), True),
        ("max_pool_3x3", 1, (64, 16, 32, 32), True),
        ("max_pool_3x3", 1, (64, 64, 8, 8), True),
        ("max_pool_3x3", 1, (63, 16, 16, 16), False),
        ("max_pool_3x3", 1, (64, 256, 4, 4), False),
        ("max_pool_3x3", 2, (64, 16, 32, 32), True),
        ("max_pool_3x3", 2, (64, 64, 32, 32), False),
    ],
)
def test_where_it_is_faster(name, stride, shape, faster, monkeypatch):
    seen = []
    monkeypatch.setattr(pool, "pool_3x3", lambda x, **_: seen.append(x))
    (part,) = parts_of([build_candidate(name, shape[1], stride)[0]])
    part(torch.empty(shape))
    assert bool(seen) == faster
