"""mixed_sum: every backend of this machine against the float64 reference, in all layouts, and refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.reference.mixed_sum import reference
from tests.helpers import with_thread_counts

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("mixed_sum", b, "cpu")]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "expanded", "offset"]


def lay_out(x, layout):
    """A tensor of x's values in another layout."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), math.nan, dtype=x.dtype)
        view = wide[..., 1::2]
        view.copy_(x)
        return view
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "offset":
        flat = torch.full((x.numel() + 3,), math.nan, dtype=x.dtype)
        flat[3:] = x.reshape(-1)
        return flat[3:].view(x.shape)
    return x.contiguous()


@st.composite
def cases(draw, dtype):
    sizes = st.sampled_from([1, 2, 3, 5, 7, 16, 17])
    shape = draw(st.one_of(st.tuples(sizes, sizes, sizes, sizes), st.lists(sizes, min_size=1, max_size=3).map(tuple)))
    if draw(st.booleans()) and len(shape) == 4:
        shape = draw(st.sampled_from([(2, 3, 40, 41), (1, 64, 9, 9), (3, 1, 70, 70), (1, 1, 1, 9001)]))
    inputs = draw(st.integers(1, 11))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    xs = [
        lay_out(torch.randn(shape, generator=generator).to(dtype), draw(st.sampled_from(LAYOUTS)))
        for _ in range(inputs)
    ]
    weights = torch.randn(inputs, generator=generator, dtype=torch.float64)
    for k in range(inputs):
        if draw(st.booleans()):
            weights[k] = draw(st.sampled_from([0.0, 1.0, 1e-20, 1e10]))
    grad = lay_out(torch.randn(shape, generator=generator).to(dtype), draw(st.sampled_from(LAYOUTS)))
    need = [draw(st.booleans()) for _ in range(inputs + 1)]
    return xs, weights.to(torch.float64 if dtype == torch.float64 else torch.float32), grad, need


def close(got, expected, dtype, magnitude):
    """Within the dtype's rounding of `magnitude`, the size of what was added up."""
    assert got.isfinite().all()
    assert ((got.double() - expected).abs() <= TOLERANCE[dtype] * magnitude.double() + 1e-30).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=120)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, data):
    xs, weights, grad, (need_weights, *need_x) = data.draw(cases(dtype))
    leaves = [x.detach().requires_grad_(need) for x, need in zip(xs, need_x, strict=True)]
    leaf_weights = weights.clone().requires_grad_(need_weights)
    with ops.backend(backend):
        y = ops.mixed_sum(leaves, leaf_weights)
        if y.requires_grad:
            y.backward(grad)

    exact = [x.double() for x in xs]
    w = weights.double()
    terms = torch.stack([x * k for x, k in zip(exact, w, strict=True)])
    assert y.dtype == dtype
    assert y.shape == xs[0].shape
    close(y, reference(exact, w), dtype, terms.abs().sum(0))
    for k, (leaf, need) in enumerate(zip(leaves, need_x, strict=True)):
        assert (leaf.grad is not None) == need
        if need:
            expected = grad.double() * w[k]
            close(leaf.grad, expected, dtype, expected.abs())
    assert (leaf_weights.grad is not None) == need_weights
    if need_weights:
        products = torch.stack([(grad.double() * x) for x in exact]).flatten(1)
        wide = torch.float32 if dtype == torch.bfloat16 else dtype
        close(leaf_weights.grad, products.sum(1), wide, products.abs().sum(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_weights_are_skipped(backend):
    xs = [torch.full((2, 3, 4, 5), math.nan), torch.ones(2, 3, 4, 5)]
    with ops.backend(backend):
        assert torch.equal(ops.mixed_sum(xs, torch.tensor([0.0, 2.0])), 2 * xs[1])
        assert torch.equal(ops.mixed_sum(xs, torch.zeros(2)), torch.zeros(2, 3, 4, 5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_format_follows_the_first_input(backend):
    x = torch.randn(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    with ops.backend(backend):
        assert ops.mixed_sum([x, last], torch.ones(2)).is_contiguous()
        y = ops.mixed_sum([last, x], torch.ones(2))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), ()])
def test_empty_and_scalar_tensors(backend, shape):
    x = torch.ones(shape, requires_grad=True)
    weights = torch.ones(2, requires_grad=True)
    with ops.backend(backend):
        y = ops.mixed_sum([x, x], weights)
        y.sum().backward()
    assert y.shape == shape
    assert torch.equal(weights.grad, torch.full((2,), float(x.numel())))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(backend, format):
    xs = [
        torch.randn(2, 3, 2, 3, dtype=torch.float64).contiguous(memory_format=format).requires_grad_() for _ in range(3)
    ]
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)
    with ops.backend(backend):
        assert torch.autograd.gradcheck(lambda w, *x: ops.mixed_sum(x, w), (weights, *xs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(dtype, format):
    xs = [torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=format) for _ in range(3)]
    weights = torch.randn(3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    torch.library.opcheck(torch.ops.asose_fast.mixed_sum_fwd, (xs, weights))
    for need_x, need_weights in [([True] * 3, True), ([True, False, True], False), ([False] * 3, True)]:
        saved = xs if need_weights else []
        torch.library.opcheck(torch.ops.asose_fast.mixed_sum_bwd, (xs[0], saved, weights, need_x, need_weights))


def test_compiles_without_a_graph_break():
    xs = [torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(4)]
    weights = torch.randn(4, requires_grad=True)

    def mixture(*tensors):
        return ops.mixed_sum([x.relu() for x in tensors[1:]], tensors[0]).tanh().sum()

    expected = torch.autograd.grad(mixture(weights, *xs), (weights, *xs))
    got = torch.autograd.grad(torch.compile(mixture, fullgraph=True)(weights, *xs), (weights, *xs))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_too_large_for_the_caches(dtype):
    """They are written around the caches, in rows of which some start off a boundary of 16 bytes."""
    x = torch.randn(1451, 1451).to(dtype)
    xs = [x.requires_grad_(), x.detach().t().requires_grad_()]
    weights = torch.tensor([0.7, -0.3], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    grad = torch.randn_like(x)
    y = ops.mixed_sum(xs, weights)
    y.backward(grad)
    exact = [leaf.detach().double() for leaf in xs]
    close(y, reference(exact, weights.double()), dtype, exact[0].abs() + exact[1].abs())
    for leaf, w in zip(xs, weights.double(), strict=True):
        close(leaf.grad, grad.double() * w, dtype, grad.abs())


def test_autocast_takes_the_widest_dtype():
    x = torch.randn(2, 3, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.mixed_sum([x.bfloat16(), x], torch.ones(2)).dtype == torch.float32
        assert ops.mixed_sum([x.bfloat16(), x.bfloat16()], torch.ones(2)).dtype == torch.bfloat16
    with pytest.raises(
        TypeError, match=r"one dtype outside autocast, got xs\[0\] torch.bfloat16, xs\[1\] torch.float32"
    ):
        ops.mixed_sum([x.bfloat16(), x], torch.ones(2))


def test_inputs_are_kept_only_for_the_weight_gradient():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    assert len(ops.mixed_sum([x, x], torch.ones(2)).grad_fn.saved_tensors) == 1
    assert len(ops.mixed_sum([x, x], torch.ones(2, requires_grad=True)).grad_fn.saved_tensors) == 3


def test_results_do_not_depend_on_the_thread_count():
    xs = [torch.randn(4, 16, 33, 31) for _ in range(5)]

    def results():
        weights = torch.linspace(-1, 1, 5).requires_grad_()
        y = ops.mixed_sum(xs, weights)
        y.square().sum().backward()
        return y.detach(), weights.grad

    first, *others = with_thread_counts(results)
    for y, grad in others:
        assert torch.equal(y, first[0])
        assert torch.equal(grad, first[1])


@pytest.mark.parametrize(
    ("xs", "weights", "message"),
    [
        ([], torch.ones(0), "xs must hold 1 to 128 tensors, got 0"),
        ([torch.ones(1)] * 129, torch.ones(129), "got 129"),
        ([torch.ones(2, 3), torch.ones(3, 2)], torch.ones(2), r"xs\[1\] has shape \(3, 2\), xs\[0\] has \(2, 3\)"),
        ([torch.ones(2), [1.0, 2.0]], torch.ones(2), r"xs\[1\] must be a tensor, got list"),
        ([torch.ones(2, dtype=torch.int64)], torch.ones(1), r"xs\[0\] must be float16, bfloat16, float32 or float64"),
        ([torch.ones(2), torch.ones(2, device="meta")], torch.ones(2), r"xs\[1\] is on meta, xs\[0\] on cpu"),
        ([torch.ones((1,) * 9)], torch.ones(1), "at most 8 dimensions, got 9"),
        ([torch.ones(2)], torch.ones(2), r"weights must be \(K,\) = \(1,\) for 1 xs, got \(2,\)"),
        ([torch.ones(2)], torch.ones(1).half(), "weights must be float32 or float64, got torch.float16"),
        ([torch.ones(2)], torch.ones(1, device="meta"), "weights are on meta, xs on cpu"),
    ],
)
def test_bad_input_is_refused(xs, weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.mixed_sum(xs, weights)
