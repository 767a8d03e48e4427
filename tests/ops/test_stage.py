"""stage: against its parts, in every dtype and layout of the weights; what stays out of the results."""

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.reference import separable as exact_separable
from asose_fast.ops.reference import stage_weights as exact_weights
from tests.ops.raw_calls import OPERATORS, right_calls, tensors

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("stage", b, "cpu")]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [(3, (2, 6, 5)), (1, (1, 1, 4)), (17, (3, 7, 3))]
"""Channels, and images, height and width."""


def weights(dtype, layout, channels):
    depthwise = [torch.randn(channels, 1, k, k) for k in (3, 1)]
    pointwise = [torch.randn(channels, channels, 1, 1) for _ in range(2)]
    return [[w.to(dtype, memory_format=layout) for w in group] for group in (depthwise, pointwise)]


def images(channels, size, count, dtype=torch.float32):
    n, height, width = size
    return [torch.randn(n, channels, height, width, dtype=dtype) for _ in range(count)]


@pytest.fixture(params=[True, False], ids=["tf32", "fp32"])
def one_product_or_three(request):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_weights_are_where_separable_reads_them(dtype, layout, backend):
    depthwise, pointwise = weights(dtype, layout, 3)
    mean, gamma, beta = torch.randn(3, 3).double(), torch.randn(2, 3), torch.randn(2, 3)
    rstd = torch.rand(3, 3).double() + 0.5  # of a norm more than there are branches
    xs = images(3, (2, 6, 5), 2)
    with ops.backend(backend):
        _, params, matrices, *_ = OPERATORS.stage_fwd(
            xs, depthwise, pointwise, mean, rstd, gamma, beta, [1, 1], 1, False
        )
    scale = gamma * rstd[:2]
    rows = [*(w.reshape(3, -1).t() for w in depthwise), scale, beta - mean[:2] * scale]
    torch.testing.assert_close(params, torch.cat([row.float() for row in rows]))
    assert torch.equal(matrices, torch.stack([w[:, :, 0, 0] for w in pointwise]).float())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("channels", "size"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.usefixtures("one_product_or_three")
def test_both_directions_are_those_of_the_parts(dtype, channels, size, layout, backend):
    """Of a second depth, with norms before, in float64 formulas. With TF32, Triton's kernels make the outputs again."""
    xs = [x.contiguous(memory_format=layout) for x in images(channels, size, 2, dtype)]
    depthwise, pointwise = weights(dtype, layout, channels)
    mean, rstd = torch.randn(2, channels).double(), torch.rand(2, channels).double() + 0.5
    gamma, beta = torch.randn(2, channels), torch.randn(2, channels)
    plan = DepthwisePlan((3, 1), (2, 1), 2, 1, True, True)
    wide = [[t.double() for t in group] for group in (xs, depthwise, pointwise)]
    exact_params = exact_weights.forward(*wide[1:], mean, rstd, gamma, beta, torch.float64)
    exact_zs, *statistics = exact_separable.forward(wide[0], *exact_params, plan, True)
    with ops.backend(backend):
        zs, params, matrices, *found, ys = OPERATORS.stage_fwd(
            xs, depthwise, pointwise, mean, rstd, gamma, beta, [2, 1], 1, True
        )
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close([z.double() for z in zs], exact_zs, **close)
    torch.testing.assert_close(found, statistics, **close)

    grads = images(channels, size, 2, dtype)
    tables = torch.randn(3, 4, channels, dtype=dtype)
    need = [True, True], True, True, True
    grad_xs, *sums = exact_separable.backward(
        [g.double() for g in grads], exact_zs, tables[:2].double(), wide[0], *exact_params, plan, *need
    )
    used, pixels = [True] * 2, grads[0].numel() // channels
    exact = exact_weights.backward(*sums, *wide[1:], mean, rstd, gamma, None, used, used, used, True, pixels)
    with ops.backend(backend):
        got = OPERATORS.stage_bwd(
            grads, zs, tables, xs, params, matrices, depthwise, pointwise, mean, rstd, gamma, None, [2, 1], 1,
            [True, True], [True, True], [True, True], True, ys,
        )  # fmt: skip
    expected = [*grad_xs, *tensors(exact[:4]), torch.cat([exact[4], tables[2:].double()])]
    tolerance = {"rtol": 2e-3, "atol": 2e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close([t.double() for t in tensors(got)], expected, **tolerance)
    assert all(g.stride() == w.stride() for g, w in zip(got[1] + got[2], depthwise + pointwise, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_of_unused_branches_stay_out(backend):
    arguments = right_calls()["stage_bwd"]
    *_, s0, s1, tables = OPERATORS.stage_bwd(*arguments.values())
    for name in ("mean", "rstd"):
        arguments[name][1] = torch.nan
    with ops.backend(backend):
        *_, got_s0, got_s1, got_tables = OPERATORS.stage_bwd(*arguments.values())
    assert torch.equal(got_s1[1], torch.zeros(3).double())
    torch.testing.assert_close((got_s0, got_s1[0], got_tables[0]), (s0, s1[0], tables[0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("used", [0, 1])
def test_weights_of_branches_without_a_gradient_have_none(used, backend):
    arguments = right_calls()["stage_bwd"] | {"need_pointwise": [True, True], "need_sums": False}
    if not used:
        arguments |= {"grads": [None, None], "zs": [None, None], "need_x": [False, False]}
    with ops.backend(backend):
        _, of_depthwise, of_pointwise, *_ = OPERATORS.stage_bwd(*arguments.values())
    for group in (of_depthwise, of_pointwise):
        assert group[0].any() == bool(used)
        assert not group[1].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("alive", [torch.tensor([True, False]), torch.tensor([-0.5, 0.0])], ids=str)
def test_dead_branches_hand_nothing_back(alive, backend):
    arguments = right_calls()["stage_bwd"]
    arguments["grads"][1] = arguments["grads"][0].clone()
    arguments |= {"alive": alive, "need_x": [True, True]}
    arguments["params"][9:34], arguments["matrices"][1], arguments["tables"][1] = torch.nan, torch.nan, 0
    with ops.backend(backend):
        grad_xs, of_depthwise, of_pointwise, *_, s1, tables = OPERATORS.stage_bwd(*arguments.values())
    assert all(t.isfinite().all() for t in (*grad_xs, *of_depthwise, *of_pointwise, s1, tables))
    assert not of_depthwise[1].any()
    assert not tables[1].any()


def test_opcheck():
    calls = right_calls()
    for name in ("stage_fwd", "stage_bwd", "norm_tables", "term_weights_fwd", "term_weights_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))
