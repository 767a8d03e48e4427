"""The head of a network on kernels computes what its modules do, and is left to them where they differ in any way."""

import copy

import pytest
import torch
from torch import nn

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.native.rehearsals import rehearse
from asose_fast.space.global_average import GlobalAverage
from asose_fast.space.parts import head as heads
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.parts.head import LARGE

SHAPE = (32, 16, 8, 8)


def make_head(norm=True):
    norms = [nn.BatchNorm2d(SHAPE[1])] if norm else []
    return nn.Sequential(*norms, nn.ReLU(), GlobalAverage(), nn.Flatten(), nn.Linear(SHAPE[1], 3))


def make_x(**options):
    return torch.randn(SHAPE, **options).to(memory_format=torch.channels_last).requires_grad_()


@pytest.fixture
def fused(monkeypatch):
    """The norms that the operator is called with."""
    seen = []

    def call(x, norm):
        seen.append(norm)
        return ops.norm_relu_mean(x, norm)

    monkeypatch.setattr(heads, "norm_relu_mean", call)
    return seen


needs_kernels = pytest.mark.skipif(
    not registry.has_kernels("norm_relu_mean", "cpu", torch.float32), reason="the kernels are not built"
)


@needs_kernels
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_head_is_that_of_its_modules(norm, training, fused):
    head = make_head(norm).double().train(training)
    plain, x = copy.deepcopy(head), make_x(dtype=torch.float64)
    y, expected = run_on_kernels(head, x), plain(x)
    assert fused == [head[0] if norm else None]
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, *head.parameters()], grad)
    wanted = torch.autograd.grad(expected, [x, *plain.parameters()], grad)
    torch.testing.assert_close([y, *found, *head.buffers()], [expected, *wanted, *plain.buffers()])


@needs_kernels
@pytest.mark.parametrize("kind", ["bfloat16", "autocast"])
def test_the_dtype_is_that_of_the_modules(kind, fused):
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    head, x = make_head().to(dtype), make_x(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        y, expected = run_on_kernels(head, x), head(x)
    assert fused
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=3e-2, atol=3e-2)


class Mine(nn.ReLU):
    pass


def hooked(head):
    head[2].register_forward_hook(lambda *_: None)


def replaced(head):
    head[1] = Mine()


def flattened_to_numbers(head):
    head[3] = nn.Flatten(0, 1)
    head[4] = nn.Identity()


@pytest.mark.parametrize("change", [hooked, replaced, flattened_to_numbers])
def test_other_modules_run_themselves(change, fused):
    head, x = make_head(), make_x()
    change(head)
    torch.testing.assert_close(run_on_kernels(head, x), head(x))
    assert not fused


def test_a_norm_that_does_not_take_the_tensor_says_so_itself():
    head = make_head()
    head[0].double()
    with pytest.raises(RuntimeError, match=r"expect.*type"):
        run_on_kernels(head, make_x())


@needs_kernels
@pytest.mark.parametrize("kind", ["no gradient", "no_grad"])
def test_what_runs_does_not_depend_on_gradients(kind, fused):
    head, x = make_head().eval(), make_x()
    y = run_on_kernels(head, x)
    with torch.set_grad_enabled(kind != "no_grad"):
        assert torch.equal(run_on_kernels(head, x.detach() if kind == "no gradient" else x), y)
    assert len(fused) == 2


@pytest.mark.parametrize("kind", ["small", "class replaced", "hook on all"])
def test_where_the_modules_are_as_fast_or_watched_they_run(kind, fused, monkeypatch):
    head, x = make_head().eval(), make_x()
    if kind == "small":
        x = x[: LARGE // x[0].numel() - 1]
    elif kind == "class replaced":
        monkeypatch.setattr(GlobalAverage, "forward", lambda self, x: x.amax((2, 3), keepdim=True))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None) if kind == "hook on all" else None
    try:
        assert torch.equal(run_on_kernels(head, x), head(x))
    finally:
        if handle:
            handle.remove()
    assert not fused


@needs_kernels
def test_a_hook_on_the_classifier_is_called(fused):
    head, seen = make_head(), []
    head[-1].register_forward_hook(lambda *_: seen.append(1))
    run_on_kernels(head, make_x())
    assert fused
    assert seen == [1]


def of_another_dtype(classifier):
    classifier.double()


def of_another_size(classifier):
    classifier.weight = nn.Parameter(torch.randn(3, SHAPE[1] + 1))


def with_another_bias(classifier):
    classifier.bias = nn.Parameter(torch.randn(2))


@needs_kernels
@pytest.mark.parametrize("change", [of_another_dtype, of_another_size, with_another_bias])
def test_a_classifier_that_does_not_take_the_features_says_so_itself(change, fused):
    head = make_head()
    change(head[-1])
    with pytest.raises(RuntimeError, match=r"same dtype|cannot be multiplied|must match"):
        run_on_kernels(head, make_x())
    assert len(fused) == 1


@needs_kernels
def test_a_large_classifier_is_left_to_pytorch(fused):
    head, x = make_head(), make_x()
    head[-1] = nn.Linear(SHAPE[1], 10000)
    y = run_on_kernels(head, x)
    assert len(fused) == 1
    assert type(y.grad_fn).__name__ == "AddmmBackward0"


@needs_kernels
@pytest.mark.parametrize("needs", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["affine", "plain", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_is_known_by_its_launches(dtype, norm, training, bias, needs):
    """On other values they give what the two operators give, to the bit."""
    of_x, of_parameters = needs
    head = make_head(norm is not None)
    if norm == "plain":
        head[0] = nn.BatchNorm2d(SHAPE[1], affine=False, momentum=None)
    head[-1] = nn.Linear(SHAPE[1], 3, bias)
    head.to(dtype).train(training).requires_grad_(of_parameters)
    x = make_x(dtype=dtype).detach().requires_grad_(of_x)
    parameters, buffers = list(head.parameters()), list(head.buffers())
    found = rehearse(lambda x: run_on_kernels(head, x), (x,), parameters, buffers)
    x = make_x(dtype=dtype).detach().requires_grad_(of_x)
    twin, wanted = copy.deepcopy(head), [x] if of_x else []
    y, kept = found.forward([x])
    expected = run_on_kernels(twin, x)
    assert torch.equal(y, expected)
    for a, b in zip(head.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
    grad = torch.randn_like(y)
    gradients = found.backward(grad, [x], y, kept)
    wanted += list(twin.parameters()) if of_parameters else []
    for a, b in zip(gradients, torch.autograd.grad(expected, wanted, grad), strict=True):
        assert torch.equal(a, b)


def test_a_traced_head_is_that_of_pytorch():
    head, x = make_head().eval().requires_grad_(False), make_x()
    traced = torch.jit.trace(lambda x: run_on_kernels(head, x), x)
    assert "asose_fast::" not in str(traced.graph)
    torch.testing.assert_close(traced(x), head(x))
