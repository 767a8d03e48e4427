"""Rehearsals find what a function launches, refuse what is not the same every time, and leave all as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops import mixed_sum
from asose_fast.ops.native.rehearsals import rehearse

pytestmark = pytest.mark.skipif(bool(_native.kernels_missing("cpu")), reason="the kernels are not built")
SCALE = torch.tensor([0.5, 0.25])
STATE = torch.zeros(3)


def tensors() -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.rand(2, requires_grad=True)


def good(x: Tensor, w: Tensor) -> Tensor:
    """Two launches, of which one makes a temporary."""
    return mixed_sum([mixed_sum([x, x], SCALE), x], w)


def aten_between(x: Tensor, w: Tensor) -> Tensor:
    return mixed_sum([mixed_sum([x, x], SCALE).relu(), x], w)


def reads_a_value(x: Tensor, w: Tensor) -> Tensor:
    """A weight is a number of the calls that differs."""
    return mixed_sum([x, x], w * torch.tensor([x.sum().item(), 1.0]))


def other_calls(x: Tensor, w: Tensor) -> Tensor:
    y = mixed_sum([x, x], w)
    return mixed_sum([y, x], w) if w.detach()[0] > 0.9 * START else y


def other_constants(x: Tensor, w: Tensor) -> Tensor:
    return mixed_sum([x, x], torch.rand(2))


def its_input(x: Tensor, w: Tensor) -> Tensor:
    return x


def a_view(x: Tensor, w: Tensor) -> Tensor:
    return mixed_sum([x, x], w)[1:]


def aten_at_the_end(x: Tensor, w: Tensor) -> Tensor:
    return mixed_sum([x, x], w) * 2


def gradient_by_aten(x: Tensor, w: Tensor) -> Tensor:
    return mixed_sum([x, x], w.exp())


def in_place(x: Tensor, w: Tensor) -> Tensor:
    return mixed_sum([x, x], w).mul_(2)


class _GradientByForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.found = mixed_sum([x, x], SCALE), mixed_sum([w, w], SCALE)
        return mixed_sum([x, x], w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(ctx.found)


def gradient_by_forward(x: Tensor, w: Tensor) -> Tensor:
    y: Tensor = _GradientByForward.apply(x, w)
    return y


START = 0.9
REFUSED = [
    aten_between, reads_a_value, other_calls, other_constants, its_input, a_view, aten_at_the_end, gradient_by_aten,
    in_place, gradient_by_forward,
]  # fmt: skip


def values(*tensors: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *(tensor.detach().clone() for tensor in tensors)]


def test_a_good_function_is_found_and_launched_on_other_values() -> None:
    found = rehearse(good, tensors(), [SCALE], [])
    assert found is not None
    x, w = tensors()
    with torch.no_grad():
        y, kept = found.forward([x, w])
        grads = found.backward(torch.ones_like(y), [x, w], y if found.reads_y else None, kept)
    expected = good(x, w)
    assert torch.equal(y, expected)
    for a, b in zip(grads, torch.autograd.grad(expected, [x, w], torch.ones_like(y)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("function", [good, *REFUSED])
def test_all_is_as_it_was(function: Callable[..., Tensor]) -> None:
    x, w = tensors()
    with torch.no_grad():
        w[0] = START
    given = x, w, SCALE
    before, versions = values(*given), [t._version for t in given]
    found = rehearse(function, (x, w), [SCALE], [])
    assert (found is None) == (function is not good)
    assert all(map(torch.equal, values(*given), before))
    assert [t._version for t in given] == versions
    assert x.grad is None is w.grad


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_exception_leaves_all_as_it_was(at: int) -> None:
    calls = []

    def failing(x: Tensor, w: Tensor) -> Tensor:
        calls.append(1)
        STATE.add_(1)
        torch.rand(3)
        if len(calls) == at:
            raise KeyError("no")
        return good(x, w)

    given = tensors()
    before, versions = values(*given, SCALE, STATE), [t._version for t in (*given, SCALE)]
    with pytest.raises(KeyError):
        rehearse(failing, given, [SCALE], [STATE])
    assert all(map(torch.equal, values(*given, SCALE, STATE), before))
    assert [t._version for t in (*given, SCALE)] == versions


def test_parameters_that_backward_reads_are_told() -> None:
    other = torch.tensor([1.0, 2.0])
    found = rehearse(good, tensors(), [SCALE, other], [])
    assert found is not None
    assert [id(t) for t in found.read] == [id(SCALE)]


@pytest.mark.parametrize("need_x", [False, True])
def test_gradients_of_parameters(need_x: bool) -> None:
    parameter, unused = torch.rand(2, requires_grad=True), torch.rand(3, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return mixed_sum([x, mixed_sum([x, x], SCALE)], parameter)

    x = tensors()[0].detach().requires_grad_(need_x)
    found = rehearse(function, (x,), [SCALE, parameter, unused], [])
    assert found is not None
    assert found.wanted == ([0, 2] if need_x else [2])
    with torch.no_grad():
        y, kept = found.forward([x])
        grads = found.backward(torch.ones_like(y), [x], y, kept)
    wanted = [x, parameter] if need_x else [parameter]
    for a, b in zip(grads, torch.autograd.grad(function(x), wanted, torch.ones_like(y)), strict=True):
        assert torch.equal(a, b)


def test_without_gradients_there_is_no_backward() -> None:
    x, w = tensors()
    with torch.no_grad():
        found = rehearse(good, (x, w), [SCALE], [])
        assert found is not None
        assert (found.wanted, found.reads_y, found.kept) == ([], False, 0)
        assert torch.equal(found.forward([x, w])[0], good(x, w))
