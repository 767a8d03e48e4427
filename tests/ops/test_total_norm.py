"""total_norm: PyTorch's norm of all gradients, whatever the layouts, to the bit for any number of threads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, right_calls

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("total_norm", b, "cpu")]
SHAPES = [(), (1,), (7,), (64,), (8193,), (20000,), (3, 4, 5, 2), (0, 3), (40, 24, 3, 3)]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "strided": lambda x: torch.stack([x, torch.full_like(x, 1e9)], -1)[..., 0],
    "expanded": lambda x: x[..., :1].expand(x.shape) if x.dim() else x,
}


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matches_the_float64_reference(data, backend):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(sorted(LAYOUTS))), min_size=1, max_size=4)
    )
    tensors = [LAYOUTS[layout](torch.randn(shape, dtype=dtype)) for shape, layout in pairs]
    with ops.backend(backend):
        found = ops.total_norm(tensors)
    exact = torch.cat([t.double().flatten() for t in tensors]).norm()
    # PyTorch sums squares of float32 in float32.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4 if backend == "reference" else 1e-7
    torch.testing.assert_close(found, exact.to(dtype), rtol=tolerance, atol=0)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
def test_the_same_bits_for_any_number_of_threads():
    tensors = [torch.randn(n) for n in (100_001, 8192, 3, 70_000)]
    before, found = torch.get_num_threads(), set()
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        found.add(ops.total_norm(tensors).item())
    torch.set_num_threads(before)
    assert len(found) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_seen(backend, value):
    tensors = [torch.ones(50), torch.ones(40).index_fill(0, torch.tensor([39]), value)]
    with ops.backend(backend):
        torch.testing.assert_close(ops.total_norm(tensors), torch.tensor(abs(value)), equal_nan=True)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no kernels")
def test_squares_beyond_float32_are_summed():
    assert ops.total_norm([torch.full((4,), 1e25)]).item() == pytest.approx(2e25)
    assert ops.total_norm([torch.full((4,), 3e38)]).item() == math.inf


@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes_side_by_side(backend):
    tensors = [torch.full((4,), 3.0), torch.full((4,), 4.0, dtype=torch.bfloat16)]
    with ops.backend(backend):
        torch.testing.assert_close(ops.total_norm(tensors), torch.tensor(10.0))
        torch.testing.assert_close(ops.total_norm([*tensors, torch.zeros(2).double()]), torch.tensor(10.0).double())


def test_the_norm_of_nothing_is_0():
    torch.testing.assert_close(ops.total_norm([]), torch.tensor(0.0))


def test_no_gradient_goes_through():
    assert not ops.total_norm([torch.ones(3, requires_grad=True)]).requires_grad


def test_opcheck():
    torch.library.opcheck(OPERATORS.total_norm, tuple(right_calls()["total_norm"].values()))
