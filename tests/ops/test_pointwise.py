"""pointwise: every backend against the formula in float64, in all dtypes and odd shapes; what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.reference.pointwise import reference
from tests.ops.raw_calls import OPERATORS, right_calls

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("pointwise", b, "cpu")]
TOLERANCES = {
    torch.float64: {},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 0.03, "atol": 0.3},
}
SIZES = st.integers(1, 7)


def leaves(shape: tuple[int, ...], outputs: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """x and the weights; none of x within a step of 0."""
    count = torch.Size(shape).numel()
    x = torch.randperm(count).sub(count // 2 + 0.5).div(10).view(shape)
    weights = [torch.randn(n, shape[1], 1, 1) for n in outputs]
    return [t.to(dtype).requires_grad_() for t in (x, *weights)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@given(
    shape=st.tuples(SIZES, st.sampled_from([1, 3, 8, 17, 40]), SIZES, SIZES),
    outputs=st.lists(st.sampled_from([1, 2, 9, 33]), min_size=1, max_size=2),
    stride=st.sampled_from([1, 2]),
    nchw=st.booleans(),
)
def test_matches_the_formula(dtype, backend, shape, outputs, stride, nchw):
    inputs = leaves(shape, tuple(outputs[:stride]), dtype)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    before = inputs[0].detach().clone()
    expected = reference(wide[0], wide[1:], stride)
    grad = torch.randn(expected.shape).to(dtype)
    if not nchw:
        grad = grad.contiguous(memory_format=torch.channels_last)
    with ops.backend(backend):
        z = ops.pointwise(inputs[0], inputs[1:], stride=stride)
        got = [z, *torch.autograd.grad(z, inputs, grad)]
    assert z.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(got, [expected, *torch.autograd.grad(expected, wide, grad.double())], strict=True):
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a.double() / scale, b / scale, **TOLERANCES[dtype])
    assert all(g.dtype is t.dtype for g, t in zip(got[1:], inputs, strict=True))
    assert torch.equal(inputs[0], before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_pixels_are_summed_up_in_slices(backend):
    inputs = leaves((3, 5, 40, 23), (7,), torch.float32)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    with ops.backend(backend):
        z = ops.pointwise(inputs[0], inputs[1:])
        got = torch.autograd.grad(z.square().sum(), inputs)
    exact = torch.autograd.grad(reference(wide[0], wide[1:]).square().sum(), wide)
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(size, stride):
    inputs = leaves((2, 3, *size), (2, 3)[:stride])
    assert torch.autograd.gradcheck(lambda x, *weights: ops.pointwise(x, weights, stride=stride), inputs)


@pytest.mark.parametrize("needed", range(3))
def test_only_what_is_needed_is_given(needed):
    inputs = leaves((2, 4, 6, 5), (2, 2))
    everything = torch.autograd.grad(ops.pointwise(inputs[0], inputs[1:], stride=2).sum(), inputs)
    lone = [t.detach().requires_grad_(i == needed) for i, t in enumerate(inputs)]
    (grad,) = torch.autograd.grad(ops.pointwise(lone[0], lone[1:], stride=2).sum(), [lone[needed]])
    torch.testing.assert_close(grad, everything[needed], rtol=0, atol=0)


def test_autocast_computes_in_its_dtype_and_gradients_keep_theirs():
    inputs = leaves((2, 4, 6, 5), (2, 2), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = ops.pointwise(inputs[0], inputs[1:], stride=2)
    grads = torch.autograd.grad(z.float().sum(), inputs)
    assert z.dtype is torch.bfloat16
    assert {g.dtype for g in grads} == {torch.float32}
    torch.testing.assert_close(z.float(), reference(inputs[0], inputs[1:], 2), rtol=0.03, atol=0.3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_passes_and_minus_infinity_is_zero(backend):
    x = torch.ones(1, 1, 2, 2)
    x[0, 0, 0, 0], x[0, 0, 1, 1] = torch.nan, -torch.inf
    with ops.backend(backend):
        z = ops.pointwise(x, [torch.ones(1, 1, 1, 1)] * 2, stride=2)
    assert z[0, 0].isnan().all()
    assert z[0, 1].item() == 0


@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 4])
def test_empty_batch(channels, size):
    inputs = leaves((0, channels, *size), (channels // 2, channels - channels // 2), torch.float32)
    z = ops.pointwise(inputs[0], inputs[1:], stride=2)
    grads = torch.autograd.grad(z.sum(), inputs)
    assert z.shape == (0, channels, *(-(-side // 2) for side in size))
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((torch.ones(2, 3, 4), [torch.ones(2, 3, 1, 1)], 1), r"x must be \(N, C, H, W\)"),
        ((torch.ones(2, 3, 4, 4), [torch.ones(2, 3, 1, 1)] * 2, 1), "weights must be from 1 to 1, the stride, got 2"),
        ((torch.ones(2, 3, 4, 4), [torch.ones(2, 4, 1, 1)], 1), r"weights\[0\] must be .* \(2, 3, 1, 1\)"),
        ((torch.ones(2, 3, 4, 4), [torch.ones(2, 3, 1, 1)], 3), "stride must be 1 or 2"),
        ((torch.ones(2, 3, 4, 4), [torch.ones(0, 3, 1, 1)], 1), "weights must have outputs"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, match):
    x, weights, stride = arguments
    with pytest.raises(ValueError, match=match):
        ops.pointwise(x, weights, stride=stride)


def test_opcheck():
    calls = right_calls()
    for name in ("pointwise_fwd", "pointwise_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))
