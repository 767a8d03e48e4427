"""norm_relu_mean: value, gradients and running statistics of the modules, in every dtype, layout and kind of norm."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.reference.norm_relu_mean import reference
from tests.helpers import with_thread_counts
from tests.ops.raw_calls import OPERATORS, right_calls
from tests.ops.test_mixed_layer import KINDS, new_norm

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("norm_relu_mean", b, "cpu")]
SHAPES = [(4, 5, 3, 3), (520, 3, 5, 2), (2, 1, 1, 1), (3, 17, 7, 2), (2, 40, 20, 33), (1, 600, 1, 3)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
TOLERANCES = {
    torch.float64: {},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}


def away_from_0(x, norm):
    """x, with what would be normalised to nearly 0, where a rounding decides, at 1000 times its distance."""
    normal = x.double() if norm is None else copy.deepcopy(norm).double()(x.double())
    return torch.where(normal.abs() < 1e-3, 3, x)


def check(x, norm, backend, tolerances):
    """Value, gradients and statistics, against the modules in float64."""
    exact_norm = copy.deepcopy(norm)
    exact_norm = exact_norm and exact_norm.double()
    grad = torch.randn(x.shape[:2]).to(x.dtype)
    exact = x.detach().double().requires_grad_()
    x.requires_grad_()
    expected = reference(exact, exact_norm)
    expected.backward(grad.double())
    with ops.backend(backend):
        y = ops.norm_relu_mean(x, norm)
        y.backward(grad)
    assert (y.dtype, y.shape) == (x.dtype, x.shape[:2])
    modules = [(norm, exact_norm)] if norm else []
    pairs = [(y, expected), (x.grad, exact.grad)]
    for mine, theirs in modules:
        pairs += zip((p.grad for p in mine.parameters()), (p.grad for p in theirs.parameters()), strict=True)
        pairs += zip(mine.buffers(), theirs.buffers(), strict=True)
    for a, b in pairs:
        scale = max(1.0, b.double().abs().max().item())
        torch.testing.assert_close(a.double() / scale, b.double() / scale, **tolerances)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_matches_the_float64_reference(dtype, kind, shape, backend):
    norm = kind and new_norm(shape[1], **KINDS[kind])
    x = torch.randn(shape).to(dtype, memory_format=LAYOUTS[(len(str(kind)) + shape[1]) % 2])
    check(away_from_0(x, norm), norm, backend, TOLERANCES[dtype])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_shape_and_layout(data):
    sides = st.integers(1, 40)
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 70)), data.draw(sides), data.draw(sides))
    kind = data.draw(st.sampled_from([*KINDS, None]))
    if shape[0] * shape[2] * shape[3] < 2:
        kind = "eval"
    norm = kind and new_norm(shape[1], **KINDS[kind]).double()
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=data.draw(st.sampled_from(LAYOUTS)))
    check(away_from_0(x, norm), norm, data.draw(st.sampled_from(BACKENDS)), {})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [["x"], ["weight"], ["bias"], ["x", "bias"]])
@pytest.mark.parametrize("kind", ["affine", "eval"])
def test_the_gradients_that_are_asked_for_alone(kind, wanted, backend):
    norm, grad = new_norm(3, **KINDS[kind]).requires_grad_(False), torch.randn(2, 3)
    leaves = {"x": torch.randn(2, 3, 4, 5), "weight": norm.weight, "bias": norm.bias}
    asked = [leaves[name].requires_grad_() for name in wanted]
    expected = torch.autograd.grad(reference(leaves["x"], norm), asked, grad)
    with ops.backend(backend):
        found = torch.autograd.grad(ops.norm_relu_mean(leaves["x"], norm), asked, grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [0.0, -0.0, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["eval", None])
def test_zeros_and_what_is_not_finite_count_as_in_pytorch(kind, value, backend):
    norm = kind and new_norm(2, **KINDS[kind])
    if norm:
        norm.running_mean.zero_(), norm.bias.data.zero_()
    x = torch.randn(2, 2, 3, 3)
    x[0, 0, 1, 1] = value
    x[1, 1] = value
    grad = torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]])
    found = []
    for function in (ops.norm_relu_mean, reference):
        leaf = x.clone().requires_grad_()
        with ops.backend(backend):
            y = function(leaf, norm)
        found.append((y, *torch.autograd.grad(y, leaf, grad)))
    torch.testing.assert_close(*found, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_mean_costs_no_digits(backend):
    norm = new_norm(3)
    check(torch.randn(8, 3, 6, 6).add_(1e4), norm, backend, {"rtol": 1e-3, "atol": 1e-3})


def test_results_do_not_depend_on_the_thread_count():
    def results():
        x = torch.linspace(-1, 1, 5 * 20 * 35 * 37).sin().view(5, 20, 35, 37).requires_grad_()
        norm = nn.BatchNorm2d(20)
        y = ops.norm_relu_mean(x, norm)
        return y, *torch.autograd.grad(y.square().sum(), [x, *norm.parameters()]), norm.running_var

    first, *others = with_thread_counts(results)
    for result in others:
        torch.testing.assert_close(result, first, rtol=0, atol=0)


@pytest.mark.parametrize(("images", "kind"), [(0, "eval"), (0, None), (2, None)])
def test_a_batch_without_images_or_pixels(images, kind):
    norm = kind and new_norm(3, **KINDS[kind])
    x = torch.randn(images, 3, 4, 0 if images else 4, requires_grad=True)
    y = ops.norm_relu_mean(x, norm)
    torch.testing.assert_close(y, reference(x, norm), equal_nan=True)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.ones(2, 3, 4)}, r"x must be \(N, C, H, W\)"),
        ({"x": torch.ones(1, 3, 1, 1)}, "more than 1 value per channel"),
        ({"norm": nn.BatchNorm2d(4)}, "norm is for 4 channels, x has 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    right = {"x": torch.randn(2, 3, 4, 4), "norm": nn.BatchNorm2d(3)}
    with pytest.raises(ValueError, match=match):
        ops.norm_relu_mean(**right | changes)


def test_opcheck():
    calls = right_calls()
    for name in ("norm_relu_mean_fwd", "norm_relu_mean_bwd"):
        torch.library.opcheck(getattr(OPERATORS, name), tuple(calls[name].values()))


def test_torch_compile_takes_it_whole():
    norm = new_norm(3)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    compiled = torch.compile(lambda x: ops.norm_relu_mean(x, norm), fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, lambda x: reference(x, norm))]
    torch.testing.assert_close(*found)
