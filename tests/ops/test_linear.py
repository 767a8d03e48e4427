"""linear: value and gradients of F.linear, for any shape and layout, from every backend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from tests.helpers import with_thread_counts
from tests.ops.raw_calls import OPERATORS, right_calls

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("linear", b, "cpu")]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "offset": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
    "expanded": lambda x: x[:1].expand(x.shape),
}


def check(x, weight, bias, grad, backend):
    """Value and gradients are those in float64, relative to the sums of the terms' absolute values; nothing is read
    that was not written."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = F.linear(*exact)
    expected = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    sizes = [t.detach().abs().requires_grad_() for t in exact]
    scale = F.linear(*sizes)
    scales = [scale, *torch.autograd.grad(scale, sizes, grad.double().abs())]
    with ops.backend(backend):
        y = ops.linear(*leaves)
        found = [y, *torch.autograd.grad(y, leaves, grad)]
    for a, b, size in zip(found, expected, scales, strict=True):
        assert a.dtype == x.dtype
        torch.testing.assert_close(a / (size + 1), b / (size + 1), rtol=0, atol=TOLERANCES[x.dtype], check_dtype=False)


@pytest.fixture(autouse=True)
def _nothing_is_read_before_it_is_written():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_matches_the_float64_reference(data, backend):
    sizes = st.one_of(st.integers(1, 6), st.integers(1, 70))
    rows, features, outputs = (data.draw(sizes) for _ in range(3))
    dtype, layouts = data.draw(st.sampled_from(list(TOLERANCES))), st.sampled_from(list(LAYOUTS.values()))
    x, weight, grad = (
        data.draw(layouts)(torch.randn(shape, dtype=dtype))
        for shape in ((rows, features), (outputs, features), (rows, outputs))
    )
    bias = torch.randn(2 * outputs, dtype=dtype)[:: data.draw(st.sampled_from([1, 2]))][:outputs]
    check(x, weight, data.draw(st.sampled_from([None, bias])), grad, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [(64, 96, 10), (3, 7, 33), (40, 129, 100), (257, 3, 1)])
def test_sizes_of_blocks_and_their_ends(shape, dtype, backend):
    rows, features, outputs = shape
    x, weight = torch.randn(rows, features, dtype=dtype), torch.randn(outputs, features, dtype=dtype)
    check(x, weight, torch.randn(outputs, dtype=dtype), torch.randn(rows, outputs, dtype=dtype), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [["x"], ["weight"], ["bias"], ["x", "bias"], ["weight", "bias"]])
def test_the_gradients_that_are_asked_for_alone(wanted, backend):
    leaves = {"x": torch.randn(5, 3), "weight": torch.randn(4, 3), "bias": torch.randn(4)}
    asked, grad = [leaves[name].requires_grad_() for name in wanted], torch.randn(5, 4)
    expected = torch.autograd.grad(F.linear(*leaves.values()), asked, grad)
    with ops.backend(backend):
        found = torch.autograd.grad(ops.linear(*leaves.values()), asked, grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_tensors(shape, backend):
    rows, features, outputs = shape
    given = [torch.randn(rows, features), torch.randn(outputs, features), torch.randn(outputs)]
    found = []
    for function in (ops.linear, F.linear):
        leaves = [t.requires_grad_() for t in given]
        with ops.backend(backend):
            y = function(*leaves)
            found.append([y, *torch.autograd.grad(y.sum(), leaves)])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_in_its_row(backend):
    x, weight, bias = torch.randn(3, 5), torch.randn(4, 5), torch.randn(4)
    x[0, 1], x[1, 2], weight[3, 1] = torch.nan, torch.inf, 0
    with ops.backend(backend):
        y = ops.linear(x, weight, bias)
    torch.testing.assert_close(y, F.linear(x, weight, bias), equal_nan=True)


def test_results_do_not_depend_on_the_thread_count():
    def results():
        leaves = [
            torch.linspace(-1, 1, rows * 257).mul(999).sin().view(rows, 257).requires_grad_() for rows in (67, 41)
        ]
        y = ops.linear(*leaves)
        return y, *torch.autograd.grad(y.square().sum(), leaves)

    assert registry.select("linear", torch.empty(67, 257), (41, 257)).__name__.rpartition(".")[0].endswith("native")
    first, *others = with_thread_counts(results)
    for result in others:
        torch.testing.assert_close(result, first, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_left_to_pytorch(dtype):
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((3, 5), (4, 5), (4,)))
    registry._usable.cache_clear()
    with pytest.warns(RuntimeWarning, match="linear runs as plain PyTorch"):
        y = ops.linear(x, weight, bias)
    assert torch.equal(y, F.linear(x, weight, bias))


def test_large_products_are_left_to_pytorch():
    assert registry.select("linear", torch.empty(256, 512), (1000, 512)).__name__.endswith("reference.linear")
    assert registry.select("linear", torch.empty(64, 96), (10, 96)).__name__.endswith("native.linear")


def test_autocast_is_that_of_pytorch():
    x, weight, bias = torch.randn(3, 5), torch.randn(4, 5, requires_grad=True), torch.randn(4)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ops.linear(x, weight, bias), F.linear(x, weight, bias)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"x must be \(N, F\) and weight \(O, F\)"),
        ({"weight": torch.ones(4)}, ValueError, r"x must be \(N, F\) and weight \(O, F\)"),
        ({"weight": torch.ones(4, 2)}, ValueError, r"weight must be torch.float32 \(4, 3\)"),
        ({"weight": torch.ones(4, 3).double()}, ValueError, "weight must be torch.float32"),
        ({"bias": torch.ones(3)}, ValueError, r"bias must be torch.float32 \(4,\)"),
        ({"weight": torch.ones(4, 3, device="meta")}, ValueError, "weight is on meta, x on cpu"),
        ({"x": torch.ones(2, 3).long()}, TypeError, "x must be float16"),
        ({"bias": 1.0}, TypeError, "bias must be a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, match):
    right = {"x": torch.ones(2, 3), "weight": torch.ones(4, 3), "bias": torch.ones(4)}
    with pytest.raises(error, match=match):
        ops.linear(**right | changes)


def test_gradcheck():
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 5), (4, 5), (4,))]
    torch.autograd.gradcheck(ops.linear, leaves)
    torch.autograd.gradgradcheck(ops.linear, leaves)


@pytest.mark.parametrize("name", ["linear_fwd", "linear_bwd"])
def test_opcheck(name):
    torch.library.opcheck(getattr(OPERATORS, name), tuple(right_calls()[name].values()))


def test_torch_compile_takes_it_whole():
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((3, 5), (4, 5), (4,))]
    compiled = torch.compile(ops.linear, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(f(*leaves).square().sum(), leaves) for f in (compiled, F.linear)]
    torch.testing.assert_close(*found)
