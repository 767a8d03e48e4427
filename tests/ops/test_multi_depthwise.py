"""multi_depthwise: every backend and instruction set of this machine against the float64 reference, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.reference.multi_depthwise import reference
from tests.helpers import with_thread_counts
from tests.ops.depthwise_cases import (
    DTYPES,
    SUPERNET,
    cases,
    check,
    supernet_plan,
)

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("multi_depthwise", b, "cpu")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [False, True])
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, own, data):
    check(ops.multi_depthwise, reference, data.draw(cases(dtype, own)), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(backend, own, stride):
    branches = [(3, 1), (5, 2), (1, 1)]
    shape = (1, 2, 3, 4)
    xs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in branches[: None if own else 1]]
    weights = [torch.randn(2, 1, k, k, dtype=torch.float64, requires_grad=True) for k, _ in branches]
    affine = [torch.randn((3, 2) if own else (2,), dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def function(*tensors):
        xs, rest = tensors[: -len(weights) - 2], tensors[-len(weights) - 2 :]
        return ops.multi_depthwise(
            xs if own else xs[0], rest[:-2], dilations=[d for _, d in branches], stride=stride,
            scale=rest[-2], shift=rest[-1],
        )  # fmt: skip

    with ops.backend(backend):
        assert torch.autograd.gradcheck(function, (*xs, *weights, *affine))


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_backward_follows_from_the_affine_gradients(backend):
    zs = [torch.randn(4, 5, 6, 7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = [torch.randn(5, 1, k, k, dtype=torch.float64) for k in (3, 5)]
    normalised = [torch.nn.functional.batch_norm(z, None, None, training=True) for z in zs]
    expected = reference(normalised, weights, dilations=[1, 2])
    means = torch.stack([z.mean((0, 2, 3)) for z in zs])
    scale = torch.stack([(z.var((0, 2, 3), correction=0) + 1e-5).rsqrt() for z in zs])
    with ops.backend(backend):
        ys = ops.multi_depthwise(zs, weights, dilations=[1, 2], scale=scale, shift=-means * scale)
        grads = torch.autograd.grad(sum(y.square().sum() for y in ys), zs)
    exact = torch.autograd.grad(sum(y.square().sum() for y in expected), zs)
    for a, b in zip((*ys, *grads), (*expected, *exact), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_relu_keeps_nan(backend):
    x = torch.ones(1, 2, 5, 5)
    x[0, 1, 2, 2] = torch.nan
    with ops.backend(backend):
        (y,) = ops.multi_depthwise(x, [torch.ones(2, 1, 3, 3)], dilations=[1])
    assert y[0, 0].isfinite().all()
    assert y[0, 1, 1:4, 1:4].isnan().all()
    assert y[0, 1].isnan().sum() == 9


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    x = torch.ones(0, 3, 4, 5, requires_grad=True)
    weight = torch.ones(3, 1, 3, 3, requires_grad=True)
    with ops.backend(backend):
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1], stride=2)
        y.sum().backward()
    assert y.shape == (0, 3, 2, 3)
    assert x.grad.shape == x.shape
    assert not weight.grad.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("stride", "affine"), [(1, True), (2, False)])
def test_opcheck(dtype, own, stride, affine):
    options = supernet_plan(own, stride, affine)
    xs = [
        torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(options.inputs)
    ]
    params = torch.randn(sum(options.rows), 3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    torch.library.opcheck(torch.ops.asose_fast.multi_depthwise_fwd, (xs, params, *options))
    grads = [torch.randn(options.out_shape(xs[0])).to(dtype), None, None, None, None]
    for need_x, need_params in [(True, True), (True, False), (False, True)]:
        need = ([need_x] * len(xs), need_params, need_params and affine)
        torch.library.opcheck(torch.ops.asose_fast.multi_depthwise_bwd, (grads, xs, params, *options, *need))


def test_compiles_without_a_graph_break():
    x = torch.randn(2, 3, 8, 9, requires_grad=True)
    weights = [torch.randn(3, 1, k, k, requires_grad=True) for k in (3, 5)]
    affine = [torch.randn(3, requires_grad=True) for _ in range(2)]

    def layer(x, w0, w1, scale, shift):
        ys = ops.multi_depthwise(x.tanh(), [w0, w1], dilations=[1, 2], stride=2, scale=scale, shift=shift)
        return sum(y.square().sum() for y in ys)

    leaves = (x, *weights, *affine)
    expected = torch.autograd.grad(layer(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(layer, fullgraph=True)(*leaves), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_thread_count(dtype):
    x = torch.randn(5, 20, 35, 37).to(dtype)
    weights = [torch.randn(20, 1, k, k) for k, _ in SUPERNET]

    def results():
        leaves = [t.clone().requires_grad_() for t in (x, *weights, torch.ones(20), torch.zeros(20))]
        ys = ops.multi_depthwise(
            leaves[0], leaves[1:-2], dilations=[d for _, d in SUPERNET], scale=leaves[-2], shift=leaves[-1]
        )
        return *ys, *torch.autograd.grad([y.float().square().sum() for y in ys], leaves)

    first, *others = with_thread_counts(results)
    for result in others:
        for a, b in zip(result, first, strict=True):
            assert torch.equal(a, b)


X, W = torch.ones(2, 3, 4, 5), torch.ones(3, 1, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, []), {"dilations": []}, "depthwise must hold 1 to 32 tensors, got 0"),
        ((X, [W] * 33), {}, "got 33"),
        ((X, [W, W]), {"dilations": [1]}, "2 depthwise weights need as many dilations, got 1"),
        (([X], [W, W]), {}, "2 depthwise weights need one x or as many, got 1"),
        ((X, [W]), {"stride": 3}, "stride must be 1 or 2, got 3"),
        ((3, [W]), {}, "xs must be a sequence, got int 3"),
        (([3], [W]), {}, r"xs\[0\] must be a tensor, got int"),
        ((X.long(), [W]), {}, "xs must be float16, bfloat16, float32 or float64, got torch.int64"),
        ((X[0], [W]), {}, r"xs must be \(N, C, H, W\) with C, H, W > 0, got \(3, 4, 5\)"),
        ((X[:, :, :0], [W]), {}, r"C, H, W > 0, got \(2, 3, 0, 5\)"),
        (([X, X[:1]], [W, W]), {}, r"xs\[1\] is torch.float32 \(1, 3, 4, 5\) on cpu, xs\[0\] is .* \(2, 3, 4, 5\)"),
        (([X, X.double()], [W, W]), {}, r"xs\[1\] is torch.float64"),
        ((X, [W.long()]), {}, r"depthwise\[0\] must be a floating tensor, got torch.int64"),
        ((X, [W[:2]]), {}, r"depthwise\[0\] must be \(C, 1, k, k\) with C = 3, got \(2, 1, 3, 3\)"),
        ((X, [W[..., :2, :2]]), {}, r"depthwise\[0\] must have an odd kernel size, got 2"),
        ((X, [W.to("meta")]), {}, r"depthwise\[0\] is on meta, xs on cpu"),
        ((X, [W]), {"dilations": [0]}, r"dilations\[0\] must be positive, got 0"),
        ((X, [W]), {"scale": torch.ones(3)}, "give both scale and shift, or neither"),
        ((X, [W]), {"scale": torch.ones(1, 3), "shift": torch.ones(3)}, r"scale must have shape \(3,\), got \(1, 3\)"),
        (
            ([X], [W]),
            {"scale": torch.ones(1, 3), "shift": torch.ones(3)},
            r"shift must have shape \(1, 3\), got \(3,\)",
        ),
        ((X, [W]), {"scale": torch.ones(3).long(), "shift": torch.ones(3)}, "scale must be floating on cpu"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.multi_depthwise(*arguments, **{"dilations": [1] * len(arguments[1]), **options})
