"""separable: every backend and instruction set of this machine against the float64 reference; statistics; refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.reference.separable import backward, reference
from tests.helpers import with_thread_counts
from tests.ops.depthwise_cases import (
    DTYPES,
    cases,
    check,
    close,
    eighths,
    supernet_plan,
)

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("separable", b, "cpu")]
# Wider and higher than a tile, which is of 32 x 32 input pixels up to 64 channels and of 16 x 16 for more.
TILED = [(2, 3, 70, 33), (1, 5, 40, 100), (1, 66, 17, 40), (2, 80, 33, 16), (1, 130, 18, 31)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [False, True])
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, own, data):
    check(ops.separable, reference, data.draw(cases(dtype, own, pointwise=True)), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shape", TILED, ids=str)
@settings(deadline=None, max_examples=2)
@given(st.data())
def test_images_of_several_tiles_match_it_too(backend, dtype, own, shape, data):
    check(ops.separable, reference, data.draw(cases(dtype, own, pointwise=True, shapes=st.just(shape))), backend)


def arguments(plan, shape, dtype):
    """Random xs, params and pointwise of the raw operators."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    xs = [eighths(shape, dtype) for _ in range(plan.inputs)]
    return xs, eighths((sum(plan.rows), shape[1]), wide), eighths((len(plan.kernels), shape[1], shape[1]), wide)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 9, 10), (1, 70, 20, 19)], ids=str)
def test_backward_applies_that_of_norms(backend, dtype, own, stride, shape):
    plan = supernet_plan(own, stride, affine=True)
    xs, params, pointwise = arguments(plan, shape, dtype)
    grads, zs = ([eighths(plan.out_shape(xs[0]), dtype) for _ in plan.kernels] for _ in range(2))
    grads[1] = zs[2] = zs[4] = None
    tables = torch.randn(len(plan.kernels), 4, shape[1], dtype=torch.float64)
    need = ([True] * plan.inputs, True, True, True)
    with ops.backend(backend):
        got = torch.ops.asose_fast.separable_bwd(grads, zs, tables, xs, params, pointwise, *plan, *need)
    exact_grads, exact_zs = ([None if t is None else t.double() for t in group] for group in (grads, zs))
    exact = backward(
        exact_grads, exact_zs, tables, [x.double() for x in xs], params.double(), pointwise.double(), plan, *need
    )
    for grad_x, expected in zip(got[0], exact[0], strict=True):
        close(grad_x, expected, dtype, "gradient of x")
    close(got[1], exact[1], dtype, "gradient of params")
    close(got[2], exact[2], dtype, "gradient of pointwise")


@pytest.mark.parametrize("channels", [16, 40])
def test_tensors_too_large_for_the_caches_have_the_values_of_smaller_ones(channels):
    plan = supernet_plan(own=True, stride=1, affine=True)
    xs, params, pointwise = arguments(plan, (1 + 2**16 // channels, channels, 4, 5), torch.float32)
    grads = [eighths(x.shape, torch.float32) for x in xs]
    tables = torch.randn(len(xs), 4, channels, dtype=torch.float64)

    def both_passes(first, last):
        some, of_some = ([t[first:last] for t in ts] for ts in (xs, grads))
        zs, *_ = torch.ops.asose_fast.separable_fwd(some, params, pointwise, *plan, False)
        need = [True] * plan.inputs, False, False, False
        found, *_ = torch.ops.asose_fast.separable_bwd(of_some, zs, tables, some, params, pointwise, *plan, *need)
        return [*zs, *found]

    assert xs[0].nbytes > 4 << 20
    half = len(xs[0]) // 2
    with ops.backend("cpu"):
        for whole, *parts in zip(both_passes(0, None), both_passes(0, half), both_passes(half, None), strict=True):
            assert torch.equal(whole, torch.cat(parts))


def statistics(xs, params, pointwise, plan):
    """The outputs as the raw operator gives them, their means and their variances, and the last two in float64."""
    zs, mean, var = torch.ops.asose_fast.separable_fwd(xs, params, pointwise, *plan, True)
    exact = torch.stack([z.double() for z in zs])
    return mean, var, exact.mean((1, 3, 4)), exact.var((1, 3, 4), correction=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (70, 3, 2, 1), (5, 20, 35, 37), (2, 70, 20, 19)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_statistics_are_those_of_the_outputs(backend, dtype, tolerance, shape, stride):
    plan = supernet_plan(False, stride, affine=False)
    with ops.backend(backend):
        mean, var, exact_mean, exact_var = statistics(*arguments(plan, shape, dtype), plan)
    assert mean.dtype == var.dtype == torch.float64
    size = (exact_var + exact_mean.square()).sqrt()
    assert ((mean - exact_mean).abs() <= tolerance * size).all()
    assert ((var - exact_var).abs() <= tolerance * size.square()).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_large_mean_costs_no_accuracy_of_the_statistics(backend, stride):
    plan = DepthwisePlan((1, 1), (1, 1), 1, stride, True, False)
    xs = [torch.randn(5, 20, 35, 37) + 1e4]
    with ops.backend(backend):
        mean, var, exact_mean, exact_var = statistics(xs, torch.ones(2, 20), torch.rand(2, 20, 20), plan)
    torch.testing.assert_close(mean, exact_mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(var, exact_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(backend, own, stride):
    branches = [(3, 1), (5, 2), (1, 1)]
    shape = (1, 2, 3, 4)

    def leaf(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    xs = [leaf(*shape) for _ in branches[: None if own else 1]]
    weights = [leaf(2, 1, k, k) for k, _ in branches]
    pointwise = [leaf(2, 2, 1, 1) for _ in branches]
    affine = [leaf(*((3, 2) if own else (2,))) for _ in range(2)]

    def function(*tensors):
        xs, weights, pointwise, (scale, shift) = tensors[:-8], tensors[-8:-5], tensors[-5:-2], tensors[-2:]
        return ops.separable(
            xs if own else xs[0], weights, pointwise, dilations=[d for _, d in branches], stride=stride,
            scale=scale, shift=shift,
        )  # fmt: skip

    with ops.backend(backend):
        assert torch.autograd.gradcheck(function, (*xs, *weights, *pointwise, *affine))


@pytest.mark.parametrize("backend", BACKENDS)
def test_relu_keeps_nan(backend):
    x = torch.ones(2, 2, 5, 5)
    x[1, 1, 2, 2] = torch.nan
    with ops.backend(backend):
        (z,) = ops.separable(x, [torch.ones(2, 1, 3, 3)], [torch.ones(2, 2, 1, 1)], dilations=[1])
    assert z[1, :, 1:4, 1:4].isnan().all()
    assert z.isnan().sum() == 2 * 9


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    x, weight, pointwise = (
        torch.ones(shape, requires_grad=True) for shape in ((0, 3, 4, 5), (3, 1, 3, 3), (3, 3, 1, 1))
    )
    with ops.backend(backend):
        (z,) = ops.separable(x, [weight], [pointwise], dilations=[1], stride=2)
        z.sum().backward()
        plan = DepthwisePlan((3,), (1,), 1, 2, True, False)
        mean, var, *_ = statistics([x.detach()], torch.ones(9, 3), torch.ones(1, 3, 3), plan)
    assert z.shape == (0, 3, 2, 3)
    assert x.grad.shape == x.shape
    assert not weight.grad.any()
    assert not pointwise.grad.any()
    assert mean.shape == var.shape == (1, 3)
    assert mean.isnan().all()
    assert var.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_have_the_dtypes_of_their_tensors(backend):
    x = torch.randn(2, 3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    weights = [torch.randn(3, 1, 3, 3, dtype=d, requires_grad=True) for d in (torch.float64, torch.float16)]
    pointwise = [torch.randn(3, 3, 1, 1, dtype=d, requires_grad=True) for d in (torch.bfloat16, torch.float64)]
    with ops.backend(backend):
        sum(z.sum() for z in ops.separable(x, weights, pointwise, dilations=[1, 2])).backward()
    for leaf in (x, *weights, *pointwise):
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("stride", "affine"), [(1, True), (2, False)])
def test_opcheck(dtype, own, stride, affine):
    plan = supernet_plan(own, stride, affine)
    xs, params, pointwise = arguments(plan, (2, 3, 4, 5), dtype)
    for with_statistics in (True, False):
        torch.library.opcheck(torch.ops.asose_fast.separable_fwd, (xs, params, pointwise, *plan, with_statistics))
    grads = [torch.randn(plan.out_shape(xs[0])).to(dtype), None, *torch.randn(3, *plan.out_shape(xs[0])).to(dtype)]
    zs = [None, None, grads[0], None, None]
    tables = torch.randn(5, 4, 3, dtype=torch.float64)
    for need_x, *need in [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]:
        torch.library.opcheck(
            torch.ops.asose_fast.separable_bwd,
            (grads, zs, tables, xs, params, pointwise, *plan, [need_x] * len(xs), *need, need[0] and affine),
        )


def test_compiles_without_a_graph_break():
    x = torch.randn(2, 3, 8, 9, requires_grad=True)
    weights = [torch.randn(3, 1, k, k, requires_grad=True) for k in (3, 5)]
    pointwise = [torch.randn(3, 3, 1, 1, requires_grad=True) for _ in range(2)]
    affine = [torch.randn(3, requires_grad=True) for _ in range(2)]

    def layer(x, w0, w1, p0, p1, scale, shift):
        zs = ops.separable(x.tanh(), [w0, w1], [p0, p1], dilations=[1, 2], stride=2, scale=scale, shift=shift)
        return sum(z.square().sum() for z in zs)

    leaves = (x, *weights, *pointwise, *affine)
    expected = torch.autograd.grad(layer(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(layer, fullgraph=True)(*leaves), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 20, 35, 37), (3, 70, 20, 19)], ids=str)
def test_results_do_not_depend_on_the_thread_count(dtype, shape):
    plan = supernet_plan(True, 1, affine=True)
    xs, params, pointwise = arguments(plan, shape, dtype)
    tables = torch.randn(5, 4, shape[1])
    need = ([True] * 5, True, True, True)

    def results():
        zs, mean, var = torch.ops.asose_fast.separable_fwd(xs, params, pointwise, *plan, True)
        grad_xs, *sums = torch.ops.asose_fast.separable_bwd(zs, zs, tables, xs, params, pointwise, *plan, *need)
        return *zs, mean, var, *grad_xs, *sums

    first, *others = with_thread_counts(results)
    for result in others:
        for a, b in zip(result, first, strict=True):
            assert torch.equal(a, b)


X, W, P = torch.ones(2, 3, 4, 5), torch.ones(3, 1, 3, 3), torch.ones(3, 3, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, [W, W], [P]), {}, "2 depthwise weights need as many pointwise ones, got 1"),
        ((X, [W], [3]), {}, r"pointwise\[0\] must be a tensor, got int"),
        ((X, [W, W], [P, P.long()]), {}, r"pointwise\[1\] must be a floating tensor, got torch.int64"),
        ((X, [W], [P[:2]]), {}, r"pointwise\[0\] must be \(C, C, 1, 1\) with C = 3, got \(2, 3, 1, 1\)"),
        ((X, [W], [P[:, :, 0, 0]]), {}, r"with C = 3, got \(3, 3\)"),
        ((X, [W], [P.to("meta")]), {}, r"pointwise\[0\] is on meta, xs on cpu"),
        ((X, [W], [P]), {"stride": 3}, "stride must be 1 or 2, got 3"),
        (([X], [W, W], [P, P]), {}, "2 depthwise weights need one x or as many, got 1"),
        ((X, [W], [P]), {"scale": torch.ones(3)}, "give both scale and shift, or neither"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.separable(*arguments, **{"dilations": [1] * len(arguments[1]), **options})
