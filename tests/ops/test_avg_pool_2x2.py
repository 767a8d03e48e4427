"""avg_pool_2x2: value and gradient of PyTorch's pooling in every dtype and layout, to the bit where PyTorch adds up in
the same type."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, right_calls

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("avg_pool_2x2", b, "cpu")]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pytorch(x):
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def check(x, backend):
    x.requires_grad_()
    expected = pytorch(x)
    grad = torch.randn_like(expected)
    with ops.backend(backend):
        y = ops.avg_pool_2x2(x)
        found = torch.autograd.grad(y, x, grad)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close([y, *found], [expected, *torch.autograd.grad(expected, x, grad)], rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matches_the_float64_reference(data, backend):
    """To the bit, in float32 too."""
    sides = st.integers(1, 9)
    shape = (data.draw(st.integers(0, 3)), data.draw(st.integers(1, 70)), data.draw(sides), data.draw(sides))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    x = torch.randn(shape, dtype=dtype).to(memory_format=data.draw(st.sampled_from(LAYOUTS)))
    check(x, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_view_and_a_gradient_of_other_strides(backend):
    check(torch.randn(2, 40, 9, 6)[:, ::2, 1:], backend)
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    with ops.backend(backend):
        found = torch.autograd.grad(ops.avg_pool_2x2(x).mean(), x)
    torch.testing.assert_close(found, torch.autograd.grad(pytorch(x).mean(), x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [3, 24])
def test_bfloat16_is_added_up_in_float32(channels, backend):
    x = torch.randn(2, channels, 5, 4, dtype=torch.bfloat16, requires_grad=True)
    with ops.backend(backend):
        y = ops.avg_pool_2x2(x)
        (found,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(y, pytorch(x.float()).bfloat16(), rtol=0, atol=0)
    assert set(found.unique().tolist()) == {0.25, 0.5}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_in_its_window(backend):
    x = torch.randn(1, 2, 5, 5)
    x[0, 0, 2, 2], x[0, 1, 4, 4] = torch.nan, torch.inf
    with ops.backend(backend):
        torch.testing.assert_close(ops.avg_pool_2x2(x), pytorch(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("x", [torch.ones(2, 3, 4), torch.ones(2, 3, 0, 4)])
def test_what_does_not_fit_is_refused(x):
    with pytest.raises(ValueError, match=r"x must be \(N, C, H, W\) with C, H, W > 0"):
        ops.avg_pool_2x2(x)


def test_opcheck():
    calls = right_calls()
    for name in ("avg_pool_2x2_fwd", "avg_pool_2x2_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))


def test_torch_compile_takes_it_whole():
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    compiled = torch.compile(ops.avg_pool_2x2, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, pytorch)]
    torch.testing.assert_close(*found)
