"""stage_weights: against plain PyTorch, in every dtype and layout of the weights; what is refused."""

import itertools

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, right_calls, tensors

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("stage_weights", b, "cpu")]


def weights(dtype, layout, channels=3):
    depthwise = [torch.randn(channels, 1, k, k) for k in (3, 1)]
    pointwise = [torch.randn(channels, channels, 1, 1) for _ in range(2)]
    return [[w.to(dtype, memory_format=layout) for w in group] for group in (depthwise, pointwise)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_values_are_where_separable_reads_them(dtype, layout, backend):
    depthwise, pointwise = weights(dtype, layout)
    mean, gamma, beta = torch.randn(3, 3).double(), torch.randn(2, 3), torch.randn(2, 3)
    rstd = torch.rand(3, 3).double() + 0.5  # of a norm more than there are branches
    with ops.backend(backend):
        params, matrices = OPERATORS.stage_weights_fwd(depthwise, pointwise, mean, rstd, gamma, beta, torch.float32)
    scale = gamma * rstd[:2]
    rows = [*(w.reshape(3, -1).t() for w in depthwise), scale, beta - mean[:2] * scale]
    torch.testing.assert_close(params, torch.cat([row.float() for row in rows]))
    assert torch.equal(matrices, torch.stack([w[:, :, 0, 0] for w in pointwise]).float())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_like_their_weights(dtype, layout, backend):
    depthwise, pointwise = weights(dtype, layout)
    params, matrices = torch.randn(9 + 1, 3), torch.randn(2, 3, 3)
    rounding = 2**-7 if backend == "triton" and dtype == torch.bfloat16 else 0  # Triton's interpreter cuts digits off
    for wanted in itertools.product([False, True], repeat=2):
        with ops.backend(backend):
            found = OPERATORS.stage_weights_bwd(
                params, matrices, depthwise, pointwise, None, None, None, None, [True] * 2, wanted, wanted, False, 8
            )
        expected = params[:9].t().reshape(3, 1, 3, 3), params[9:].t().reshape(3, 1, 1, 1)
        for got, w, exact in zip((0, 1), depthwise, expected, strict=True):
            if wanted[got]:
                grad = found[0][sum(wanted[:got])]
                assert (grad.dtype, grad.stride()) == (dtype, w.stride())
                torch.testing.assert_close(grad, exact.to(dtype), rtol=rounding, atol=0)
        for grad, exact in zip(found[1], matrices[list(wanted)], strict=True):
            torch.testing.assert_close(grad[:, :, 0, 0], exact.to(dtype), rtol=rounding, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_of_unused_branches_stay_out(backend):
    arguments = right_calls()["stage_weights_bwd"]
    expected = tensors(OPERATORS.stage_weights_bwd(*arguments.values()))
    for name in ("mean", "rstd"):
        arguments[name][1] = torch.nan
    with ops.backend(backend):
        *_, s0, s1, tables = tensors(OPERATORS.stage_weights_bwd(*arguments.values()))
    assert torch.equal(s1[1], torch.zeros(3).double())
    torch.testing.assert_close((s0, s1[0], tables[0]), (expected[-3], expected[-2][0], expected[-1][0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norms", [False, True])
def test_branches_that_are_not_alive_hand_zeros_back(backend, norms):
    arguments = right_calls()["stage_weights_bwd"] | {
        "alive": torch.tensor([True, False]),
        "need_pointwise": [True] * 2,
    }
    if not norms:
        arguments |= {"mean": None, "rstd": None, "gamma": None, "has_sums": False}
        arguments["grad_params"] = arguments["grad_params"][: 9 + 25].clone()
    dead = dict(arguments)
    dead["grad_params"], dead["grad_matrices"] = (arguments[n].clone() for n in ("grad_params", "grad_matrices"))
    dead["grad_params"][9 : 9 + 25] = dead["grad_matrices"][1] = torch.nan
    if norms:
        dead["grad_params"][[35, 37]] = torch.nan
    with ops.backend("reference"):
        expected = tensors(OPERATORS.stage_weights_bwd(*arguments.values()))
    with ops.backend(backend):
        found = tensors(OPERATORS.stage_weights_bwd(*dead.values()))
    torch.testing.assert_close(found, expected)
    depthwise, pointwise = found[:2], found[2:4]
    assert not depthwise[1].any()
    assert not pointwise[1].any()
    assert depthwise[0].any()
    assert pointwise[0].any()


def test_opcheck():
    calls = right_calls()
    for name in ("stage_weights_fwd", "stage_weights_bwd", "norm_tables", "term_weights_fwd", "term_weights_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))
