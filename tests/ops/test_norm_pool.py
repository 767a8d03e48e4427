"""norm_pool: value, gradients and running statistics of the modules, in every dtype, layout and kind of norm."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, right_calls
from tests.ops.test_mixed_layer import KINDS, new_norm

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("norm_pool", b, "cpu")]
SHAPES = [(4, 5, 3, 3), (2, 1, 1, 1), (3, 17, 7, 2), (2, 40, 20, 33), (1, 24, 1, 131), (2, 16, 66, 4)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
TOLERANCES = {
    torch.float64: {},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}


def exact(norm, z, pool, dtype):
    """In float64, but that maxima are those of values as `dtype` has them."""
    y = norm(z)
    return y if pool == 1 else F.max_pool2d(y + (y.to(dtype).double() - y).detach(), pool, ceil_mode=True)


def assert_close(found, wanted, dtype):
    for a, b in zip(found, wanted, strict=True):
        scale = max(1.0, b.double().abs().max().item())
        torch.testing.assert_close(a.double() / scale, b.double() / scale, **TOLERANCES[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_matches_the_float64_reference(dtype, kind, shape, pool, backend):
    norm = new_norm(shape[1], **KINDS[kind])
    if norm.affine:
        norm.weight.data[::2] *= -1
    exact_norm = copy.deepcopy(norm).double()
    layout = LAYOUTS[(shape[1] + len(kind)) % 2]
    z = torch.randn(shape).to(dtype, memory_format=layout).requires_grad_()
    wide = z.detach().double().requires_grad_()
    expected = exact(exact_norm, wide, pool, dtype)
    grad = torch.randn(expected.shape).to(dtype, memory_format=LAYOUTS[shape[0] % 2])
    expected.backward(grad.double())
    with ops.backend(backend):
        y = ops.norm_pool(z, norm, pool)
        y.backward(grad)
    assert (y.dtype, y.shape) == (dtype, expected.shape)
    assert y.is_contiguous(memory_format=layout)
    found = [y, z.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]
    wanted = [expected, wide.grad, *(p.grad for p in exact_norm.parameters()), *exact_norm.buffers()]
    assert_close(found, wanted, dtype)


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 35), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**31),
    st.sampled_from(["affine", "eval"]),
    st.sampled_from(BACKENDS),
)
def test_ties_and_nans_as_in_pytorch(shape, seed, kind, backend):
    """Few values, so that many windows have several equal maxima, and some have NaNs."""
    torch.manual_seed(seed)
    norm = new_norm(shape[1], **KINDS["eval"]).double()
    norm.weight.data *= torch.randint(-1, 2, (shape[1],))
    z = torch.randint(0, 3, shape).double()
    if kind == "eval":  # the statistics of a batch with NaNs are NaN
        z[torch.rand(shape) < 0.1] = torch.nan
    z = z.contiguous(memory_format=torch.channels_last)
    leaves = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected = F.max_pool2d(norm(leaves[0]), 2, ceil_mode=True)
    grad = torch.randn_like(expected)
    with ops.backend(backend):
        y = ops.norm_pool(leaves[1], norm, 2)
        y.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(y, expected, equal_nan=True)
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wanted", [["z"], ["weight"], ["bias"], ["z", "weight"]], ids=" ".join)
def test_the_gradients_that_are_asked_for_alone(wanted, training, pool, backend):
    norm = new_norm(3, training=training).requires_grad_(False)
    leaves = {"z": torch.randn(2, 3, 4, 5), "weight": norm.weight, "bias": norm.bias}
    asked = [leaves[name].requires_grad_() for name in wanted]
    expected = F.max_pool2d(norm(leaves["z"]), pool, ceil_mode=True)
    grad = torch.randn_like(expected)
    with ops.backend(backend):
        found = torch.autograd.grad(ops.norm_pool(leaves["z"], norm, pool), asked, grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, asked, grad), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the kernels are not built")
@pytest.mark.parametrize("shape", [(3, 24, 37, 6), (2, 5, 9, 150)])
def test_results_do_not_depend_on_the_thread_count(shape):
    z = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            norm = torch.nn.BatchNorm2d(shape[1])
            y = ops.norm_pool(z, norm, 2)
            results.append([y, *torch.autograd.grad(y.square().sum(), [z, norm.weight, norm.bias])])
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"z": torch.ones(2, 3, 4)}, ValueError, r"z must be \(N, C, H, W\)"),
        ({"z": torch.ones(1, 3, 1, 1)}, ValueError, "more than 1 value per channel"),
        ({"z": torch.ones(2, 3, 0, 4)}, ValueError, "H, W > 0"),
        ({"pool": 3}, ValueError, "pool must be 1 or 2, got 3"),
        ({"pool": True}, TypeError, "pool must be an integer"),
        ({"norm": torch.nn.BatchNorm2d(4)}, ValueError, "norm is for 4 channels, z has 3"),
        ({"norm": torch.nn.ReLU()}, TypeError, "norm must be an nn.BatchNorm2d"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, match):
    right = {"z": torch.randn(2, 3, 4, 4), "norm": torch.nn.BatchNorm2d(3), "pool": 2}
    with pytest.raises(error, match=match):
        ops.norm_pool(**right | changes)


def test_opcheck():
    calls = right_calls()
    for name in ("norm_pool_fwd", "norm_pool_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))
