"""pool_pair: every backend and instruction set of this machine against PyTorch's poolings, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.reference.pool_pair import reference
from tests.helpers import with_thread_counts
from tests.ops.layer_checks import max_places

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("pool_pair", b, "cpu")]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2}


@st.composite
def cases(draw, dtype):
    """x, stride, and the gradients of avg and max, of which one may be None."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    channels = draw(st.sampled_from([1, 2, 7, 8, 16, 17, 24, 33]))
    size = st.one_of(st.integers(1, 12), st.sampled_from([16, 17, 33, 40]))
    shape = (draw(st.integers(1, 3)), channels, draw(size), draw(size))
    x = torch.randn(shape, generator=generator)
    if draw(st.booleans()):  # many equal maxima
        x = x.round()
    for value in draw(st.sets(st.sampled_from([torch.nan, torch.inf, -torch.inf]))):
        x[torch.rand(shape, generator=generator) < 0.1] = value
    x = x.to(dtype)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    stride = draw(st.sampled_from([1, 2]))
    out = (*shape[:2], *((s - 1) // stride + 1 for s in shape[2:]))
    grads = [torch.randn(out, generator=generator).to(dtype) for _ in range(2)]
    absent = draw(st.sampled_from([None, 0, 1]))
    return x, stride, [None if i == absent else g for i, g in enumerate(grads)]


def run(function, x, stride, grads):
    x = x.detach().requires_grad_()
    ys = function(x, stride=stride)
    used = [i for i, g in enumerate(grads) if g is not None]
    return *ys, *torch.autograd.grad([ys[i] for i in used], x, [grads[i] for i in used])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, data):
    x, stride, grads = data.draw(cases(dtype))
    with ops.backend(backend):
        got = run(ops.pool_pair, x, stride, grads)
    expected = run(reference, x.double(), stride, [None if g is None else g.double() for g in grads])
    assert all(t.is_contiguous(memory_format=torch.channels_last) and t.dtype == dtype for t in got)
    assert torch.equal(got[1].double().nan_to_num(), expected[1].nan_to_num())
    # A sum of up to 18 terms of size 1, rounded to the dtype.
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype], equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_one_pooling_is_its_half_of_the_pair(backend, dtype, data):
    x, stride, grads = data.draw(cases(dtype))
    with ops.backend(backend):
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            leaf = x.detach().requires_grad_()
            y = ops.pool_3x3(leaf, maximum=i == 1, stride=stride)
            pair = run(ops.pool_pair, x, stride, [grad if k == i else None for k in range(2)])
            found = y, *torch.autograd.grad(y, leaf, grad)
            torch.testing.assert_close(found, (pair[i], pair[2]), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(backend, stride):
    x = torch.randperm(120).double().view(2, 3, 4, 5).requires_grad_()  # no two values within a step of each other
    with ops.backend(backend):
        assert torch.autograd.gradcheck(lambda x: ops.pool_pair(x, stride=stride), x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_of_equal_maxima_takes_the_gradient(backend):
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    with ops.backend(backend):
        _, max = ops.pool_pair(x)
        max.sum().backward()
    assert x.grad.flatten().tolist() == [4, 2, 0, 2, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    x = torch.ones(0, 3, 4, 5, requires_grad=True)
    with ops.backend(backend):
        avg, max = ops.pool_pair(x, stride=2)
        (avg + max).sum().backward()
    assert avg.shape == max.shape == (0, 3, 2, 3)
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(dtype, stride):
    x = torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    for needs in [(1, 1, 0, 0), (1, 0, 0, 1), (0, 1, 0, 0), (1, 1, 1, 0), (1, 1, 1, 1)]:
        torch.library.opcheck(torch.ops.asose_fast.pool_pair_fwd, (x, stride, *map(bool, needs)))
    avg, max = reference(x, stride=stride)
    none, factor, tables = torch.empty(0), torch.tensor([0.5]), torch.randn(2, 4, 3)
    for grads in [[avg, max], [avg, None], [None, max]]:
        torch.library.opcheck(
            torch.ops.asose_fast.pool_pair_bwd, (grads, [None, None], none, x, stride, [], none, 0, None)
        )
        call = grads, [max, avg], tables, x, stride, [x], factor, 0
        torch.library.opcheck(torch.ops.asose_fast.pool_pair_bwd, (*call, None))
        torch.library.opcheck(torch.ops.asose_fast.pool_pair_bwd, (*call, torch.full_like(avg, 4, dtype=torch.uint8)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_and_terms_in_backward(backend, dtype, stride):
    """Gradients that a norm's backward is applied to on load, and terms that are added."""
    x, *terms = (torch.randn(2, 19, 9, 6).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(3))
    avg, max = (y.detach() for y in reference(x, stride=stride))
    g, factors = torch.randn_like(avg), torch.tensor([0.25, -2.0])
    tables = torch.randn(2, 4, 19, dtype=torch.float64)
    for zs in ([avg, max], [avg, None], [None, max]):
        with ops.backend(backend):
            got = torch.ops.asose_fast.pool_pair_bwd([g, g], zs, tables, x, stride, terms, factors, 0, None)
        leaf = x.double().requires_grad_()
        pooled = reference(leaf, stride=stride)
        of_pools = []
        for (scale, center, slope, shift), value in zip(tables[:, :, :, None, None], zs, strict=True):
            curve = 0 if value is None else slope * (value.double() - center) + shift
            of_pools.append(scale * g.double() + curve)
        expected = torch.autograd.grad(pooled, leaf, of_pools)[0]
        expected += sum(factor * term.double() for term, factor in zip(terms, factors, strict=True))
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCE[dtype] * expected.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_x_stands_for_maxima_whose_places_are_known(backend):
    x = torch.randn(2, 19, 9, 6).contiguous(memory_format=torch.channels_last)
    avg, max = reference(x, stride=1)
    g, tables, places = torch.randn_like(avg), torch.randn(2, 4, 19, dtype=torch.float64), max_places(x)

    def gradient(z):
        return torch.ops.asose_fast.pool_pair_bwd([g, g], [avg, z], tables, x, 1, [], x.new_empty(0), 0, places)

    with ops.backend(backend):
        assert torch.equal(gradient(x), gradient(max))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given", [0, 1, 2])
def test_terms_without_a_factor_count_once(backend, given):
    x, *terms = torch.randn(3, 2, 5, 4, 3).unbind()
    factors = torch.tensor([0.25, -2.0])[:given]
    with ops.backend(backend):
        got = torch.ops.asose_fast.pool_pair_bwd([None] * 2, [None] * 2, x.new_empty(0), x, 1, terms, factors, 0, None)
    torch.testing.assert_close(got, sum(f * t for f, t in zip([*factors, 1, 1], terms, strict=False)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_terms_are_handed_back_through_a_relu(backend, dtype):
    x, *terms = (torch.randn(2, 19, 9, 6).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(4))
    x[0, 0, :2] = 0
    none, factors = x.new_empty(0), torch.tensor([-2.0])
    with ops.backend(backend):
        got = torch.ops.asose_fast.pool_pair_bwd([None] * 2, [None] * 2, none, x, 1, terms, factors, 2, None)
    expected = torch.where(x > 0, terms[1].double() + terms[2].double(), 0) - 2 * terms[0].double()
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCE[dtype] * expected.abs().max().item())


@pytest.mark.parametrize("rectified", [-1, 2])
def test_more_rectified_terms_than_have_no_factor_are_refused(rectified):
    x = torch.ones(1, 2, 3, 3)
    call = [None] * 2, [None] * 2, x.new_empty(0), x, 1, [x, x], torch.ones(1)
    with pytest.raises(ValueError, match=f"rectified must be 0 to 1, the terms without a factor, got {rectified}"):
        torch.ops.asose_fast.pool_pair_bwd(*call, rectified, None)


def test_a_factor_of_no_term_is_refused():
    x = torch.ones(1, 2, 3, 3)
    with pytest.raises(ValueError, match="factors must be"):
        torch.ops.asose_fast.pool_pair_bwd([None] * 2, [None] * 2, x.new_empty(0), x, 1, [x], torch.ones(2), 0, None)


def test_norms_of_a_pooling_that_is_not_needed_are_refused():
    with pytest.raises(ValueError, match="for_norms must be False"):
        torch.ops.asose_fast.pool_pair_fwd(torch.ones(1, 2, 3, 3), 1, True, False, True, False)


def test_compiles_without_a_graph_break():
    x = torch.randn(2, 3, 8, 9, requires_grad=True)

    def layer(x):
        avg, max = ops.pool_pair(x.tanh(), stride=2)
        return (avg * max).sum()

    (expected,) = torch.autograd.grad(layer(x), x)
    (got,) = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x), x)
    torch.testing.assert_close(got, expected)


def test_results_do_not_depend_on_the_thread_count():
    def results():
        x = torch.linspace(-1, 1, 5 * 20 * 35 * 37).sin().view(5, 20, 35, 37).requires_grad_()
        avg, max = ops.pool_pair(x)
        return avg, max, *torch.autograd.grad((avg * max).sum(), x)

    first, *others = with_thread_counts(results)
    for result in others:
        for a, b in zip(result, first, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("x", "stride", "message"),
    [
        ([1.0], 1, "x must be a tensor, got list"),
        (torch.ones(1, 2, 3, 4).long(), 1, "x must be float16, bfloat16, float32 or float64, got torch.int64"),
        (torch.ones(2, 3, 4), 1, r"x must be \(N, C, H, W\) with C, H, W > 0, got \(2, 3, 4\)"),
        (torch.ones(1, 2, 3, 0), 1, r"got \(1, 2, 3, 0\)"),
        (torch.ones(1, 2, 3, 4), 3, "stride must be 1 or 2, got 3"),
    ],
)
def test_bad_input_is_refused(x, stride, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.pool_pair(x, stride=stride)
