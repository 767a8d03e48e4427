"""`factorized_reduce` against its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asose_fast.space.factorized_reduce import factorized_reduce, reference

SIZES = st.integers(1, 7)


def leaves(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """x, even and odd; none of x within a step of 0."""
    channels, count = shape[1], torch.Size(shape).numel()
    x = torch.randperm(count).sub(count // 2 + 0.5).div(10).view(shape)
    weights = [torch.randn(n, channels, 1, 1) for n in (channels // 2, channels - channels // 2)]
    return [t.to(dtype).requires_grad_() for t in (x, *weights)]


@given(shape=st.tuples(SIZES, SIZES, SIZES, SIZES), nchw=st.booleans())
def test_matches_the_formula(shape, nchw):
    inputs = leaves(shape)
    before = inputs[0].detach().clone()
    y, expected = factorized_reduce(*inputs), reference(*inputs)
    grad = torch.randn(y.shape, dtype=y.dtype)
    if not nchw:
        grad = grad.contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for got, wanted in zip(
        (y, *torch.autograd.grad(y, inputs, grad)),
        (expected, *torch.autograd.grad(expected, inputs, grad)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)
    assert torch.equal(inputs[0], before)


@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
def test_gradcheck(size):
    assert torch.autograd.gradcheck(factorized_reduce, leaves((2, 3, *size)))


@pytest.mark.parametrize("needed", range(3))
def test_only_what_is_needed_is_computed(needed):
    inputs = leaves((2, 4, 6, 5))
    y = factorized_reduce(*inputs)
    everything = torch.autograd.grad(y.sum(), inputs)
    lone = [t.detach().requires_grad_(i == needed) for i, t in enumerate(inputs)]
    (grad,) = torch.autograd.grad(factorized_reduce(*lone).sum(), [lone[needed]])
    torch.testing.assert_close(grad, everything[needed], rtol=0, atol=0)


def test_autocast_computes_in_its_dtype_and_gradients_keep_theirs():
    inputs = leaves((2, 4, 6, 5), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = factorized_reduce(*inputs)
    grads = torch.autograd.grad(y.float().sum(), inputs)
    assert y.dtype is torch.bfloat16
    assert {g.dtype for g in grads} == {torch.float32}
    torch.testing.assert_close(y.float(), reference(*inputs), rtol=0.03, atol=0.3)


def test_nan_passes_and_minus_infinity_is_zero():
    x = torch.ones(1, 1, 2, 2)
    x[0, 0, 0, 0], x[0, 0, 1, 1] = torch.nan, -torch.inf
    y = factorized_reduce(x, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert y[0, 0].isnan().all()
    assert y[0, 1].item() == 0


@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 4])
def test_empty_batch(channels, size):
    inputs = leaves((0, channels, *size), torch.float32)
    y = factorized_reduce(*inputs)
    grads = torch.autograd.grad(y.sum(), inputs)
    assert y.shape == (0, channels, *(-(-side // 2) for side in size))
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert not any(g.any() for g in grads)
