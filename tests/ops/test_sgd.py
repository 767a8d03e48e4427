"""sgd: clipping and the step of torch.optim.SGD, to rounding, whatever the layouts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, call, right_calls
from tests.ops.test_total_norm import LAYOUTS, SHAPES

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("sgd", b, "cpu")]


def pytorch(parameters, gradients, momenta, steps, *, clip=None, **options):
    """Parameters and momenta after steps of PyTorch, in float64."""
    leaves = [nn.Parameter(p.double().clone()) for p in parameters]
    optimizer = torch.optim.SGD(leaves, **options)
    for p, m in zip(leaves, momenta, strict=False):
        optimizer.state[p]["momentum_buffer"] = m.double().clone()
    for _ in range(steps):
        for p, g in zip(leaves, gradients, strict=True):
            p.grad = g.double().clone()
        if clip is not None:
            nn.utils.clip_grads_with_norm_(leaves, clip.bound, clip.norm.double())
        optimizer.step()
    return [p.data for p in leaves], [optimizer.state[p]["momentum_buffer"] for p in leaves if momenta]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matches_the_float64_reference(data, backend):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    momentum = data.draw(st.sampled_from([0.0, 0.9]))
    layout = st.sampled_from([name for name in sorted(LAYOUTS) if name != "expanded"])
    parameters, gradients, momenta = (
        [LAYOUTS[data.draw(layout)](torch.randn(shape, dtype=dtype)) for shape in shapes] for _ in range(3)
    )
    gradients[0] = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](gradients[0])
    momenta = momenta if momentum else []
    options = {"momentum": momentum, "nesterov": bool(momentum) and data.draw(st.booleans())}
    rate, decay = data.draw(st.sampled_from([0.0, 0.3])), data.draw(st.sampled_from([0.0, 0.01]))
    norms = [torch.tensor(7.5, dtype=dtype), torch.tensor(0.5, dtype=torch.float64)]
    clip = data.draw(st.sampled_from([None, *(ops.Clip(norm, 5.0) for norm in norms)]))
    expected = pytorch(parameters, gradients, momenta, 2, clip=clip, lr=rate, weight_decay=decay, **options)
    before = [g.clone() for g in gradients]
    with ops.backend(backend):
        for _ in range(2):
            ops.sgd(parameters, gradients, momenta, rate=rate, decay=decay, clip=clip, **options)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for found, exact in zip((parameters, momenta), expected, strict=True):
        torch.testing.assert_close([t.double() for t in found], exact, rtol=tolerance, atol=tolerance)
    assert all(map(torch.equal, gradients, before))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
def test_the_same_bits_for_any_number_of_threads():
    torch.manual_seed(0)
    lists = [[torch.randn(n) for n in (100_001, 5, 8192)] for _ in range(3)]
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        parameters, gradients, momenta = ([t.clone() for t in tensors] for tensors in lists)
        ops.sgd(parameters, gradients, momenta, rate=0.1, momentum=0.9)
        found.append(torch.cat(parameters + momenta))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("norm", [math.nan, math.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_that_is_not_finite_spoils_what_it_does_in_pytorch(backend, norm):
    gradient = torch.tensor([1.0, norm, 2.0])
    lists = [torch.ones(3)], [gradient], [torch.ones(3)]
    clip = ops.Clip(torch.tensor(norm), 5.0)
    expected = pytorch(*lists, 1, clip=clip, lr=0.1, momentum=0.9)
    with ops.backend(backend):
        ops.sgd(*lists, rate=0.1, momentum=0.9, clip=clip)
    torch.testing.assert_close(lists[0][0].double(), expected[0][0], equal_nan=True)
    assert lists[0][0].isfinite().tolist() == [math.isinf(norm), False, math.isinf(norm)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes_and_layouts_side_by_side(backend):
    """Those that the kernel does not take are left to PyTorch, one by one."""
    dtypes = [torch.float32, torch.bfloat16, torch.float64]
    parameters = [torch.ones(3, 3, 2, 2, dtype=dtype) for dtype in [*dtypes, torch.float32]]
    gradients = [torch.full_like(p, 2) for p in parameters]
    gradients[3] = gradients[3].contiguous(memory_format=torch.channels_last)
    with ops.backend(backend):
        ops.sgd(parameters, gradients, [], rate=0.25)
    assert all([p.eq(0.5).all() for p in parameters])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_of_before_knows_that_its_parameter_has_changed(backend):
    p = torch.ones(3, requires_grad=True)
    loss = p.square().sum()
    with ops.backend(backend):
        ops.sgd([p], [torch.ones(3)], [], rate=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"momenta": []}, "sgd: momenta must hold 2 values, got 0"),
        ({"momentum": 0.0}, "sgd: momenta must hold 0 values, got 2"),
        ({"norm": torch.ones(2)}, r"sgd: norm must be torch.float32 or torch.float64 \(\), got torch.float32 \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        call("sgd", right_calls()["sgd"] | changes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_pytorch_would_not_update_is_refused_before_anything_is(backend):
    good, expanded = torch.ones(3), torch.ones(1).expand(3)
    with ops.backend(backend), pytest.raises(ValueError, match="must not be expanded"):
        ops.sgd([good, expanded], [torch.ones(3)] * 2, [], rate=0.1)
    assert good.eq(1).all()


@pytest.mark.parametrize(
    ("gradient", "match"),
    [
        (torch.ones(2), r"gradients\[0\] must be torch.float32 \(3,\)"),
        (torch.ones(3).double(), r"gradients\[0\] must be torch.float32 \(3,\)"),
        (torch.ones(3).to_sparse(), r"gradients\[0\] must be a dense tensor"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(gradient, match):
    p = torch.ones(3)
    with pytest.raises((TypeError, ValueError), match=match):
        ops.sgd([p], [gradient], [], rate=0.1)
    assert p.eq(1).all()


def test_memory_that_is_gone_is_refused():
    p, gradient = torch.ones(3), torch.ones(3)
    gradient.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="no memory"):
        ops.sgd([p], [gradient], [], rate=0.1)
    with pytest.raises(ValueError, match="no memory"):
        ops.total_norm([gradient])


def test_a_profiler_sees_the_operator():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        ops.sgd([torch.ones(3)], [torch.ones(3)], [], rate=0.1)
        ops.total_norm([torch.ones(3)])
    assert {"asose_fast::sgd", "asose_fast::total_norm"} <= {event.name for event in profiler.events()}


def test_negated_gradients_are_read_as_they_are():
    negated = torch.full((3,), 2j).conj().imag
    assert negated.is_neg()
    p = torch.zeros(3)
    ops.sgd([p], [negated], [], rate=0.5)
    assert p.eq(1).all()
    assert ops.total_norm([negated]).item() == pytest.approx(12**0.5)


def test_opcheck():
    torch.library.opcheck(OPERATORS.sgd, tuple(right_calls()["sgd"].values()))
