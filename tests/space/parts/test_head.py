"""The head of a network on kernels computes what its modules do, and is left to them where they differ in any way."""

import copy

import pytest
import torch
from torch import nn

from asose_fast import ops
from asose_fast.ops import registry
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


@pytest.mark.parametrize("kind", ["small", "no gradient", "no_grad", "class replaced", "hook on all"])
def test_where_the_modules_are_as_fast_or_watched_they_run(kind, fused, monkeypatch):
    head, x = make_head().eval(), make_x()
    if kind == "small":
        x = x[: LARGE // x[0].numel() - 1]
    elif kind == "no gradient":
        x = x.detach()
    elif kind == "class replaced":
        monkeypatch.setattr(GlobalAverage, "forward", lambda self, x: x.amax((2, 3), keepdim=True))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None) if kind == "hook on all" else None
    try:
        with torch.set_grad_enabled(kind != "no_grad"):
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


def test_a_traced_head_is_that_of_pytorch():
    head, x = make_head().eval().requires_grad_(False), make_x()
    traced = torch.jit.trace(lambda x: run_on_kernels(head, x), x)
    assert "asose_fast::" not in str(traced.graph)
    torch.testing.assert_close(traced(x), head(x))
