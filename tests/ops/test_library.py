"""How operators are called: directly, or through the dispatcher where somebody listens."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from asose_fast import ops
from asose_fast.ops.mixed_norm_sum import mixed_norm_sum_fwd
from asose_fast.ops.mixed_sum import mixed_sum_fwd
from asose_fast.ops.pool_pair import pool_pair_bwd


class Log(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def run():
    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    y = ops.mixed_sum([x, x], torch.ones(2))
    y.sum().backward()
    return x.grad


def test_a_mode_sees_the_operators():
    with Log() as log:
        seen = run()
    assert {"asose_fast.mixed_sum_fwd.default", "asose_fast.mixed_sum_bwd.default"} <= set(log.seen)
    assert torch.equal(seen, run())


def test_the_profiler_names_the_operators():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    assert {"asose_fast::mixed_sum_fwd", "asose_fast::mixed_sum_bwd"} <= {event.key for event in profile.key_averages()}


def test_a_missing_first_gradient_is_no_obstacle():
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    weights = [torch.randn(4, 1, 3, 3) for _ in range(2)]
    _, second = ops.multi_depthwise(x, weights, dilations=[1, 1])
    second.sum().backward()
    expected = torch.autograd.grad(ops.multi_depthwise(x, weights[1:], dilations=[1])[0].sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


class Wrapper(torch.Tensor):
    """Has no memory of its own: whatever it is given to runs on the tensor that it wraps."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def unwrap(value):
            return value.inner if isinstance(value, cls) else value

        args, kwargs = torch.utils._pytree.tree_map(unwrap, (args, kwargs or {}))
        return function(*args, **kwargs)


class Named(torch.Tensor):
    """Has memory like any other, and no dispatch of its own."""


def with_a_stranger(stranger, position):
    """Value and gradients of a mixed sum whose argument `position` is `stranger` of it; the weights are the last."""
    torch.manual_seed(0)
    arguments = [*(torch.randn(2, 3, 4, 4) for _ in range(3)), torch.randn(3)]
    leaves = [t.requires_grad_() for t in arguments]
    arguments[position] = stranger(arguments[position])
    *xs, weights = arguments
    y = ops.mixed_sum(xs, weights)
    y.backward(stranger(torch.full_like(y, 0.5)))
    return [y.detach().as_subclass(torch.Tensor), *(leaf.grad.as_subclass(torch.Tensor) for leaf in leaves)]


def negated(x):
    return torch._neg_view(-x)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("stranger", [negated, lambda x: x.as_subclass(Named)], ids=["negated", "subclass"])
def test_lazy_values_and_subclasses_anywhere(stranger, position):
    expected = with_a_stranger(lambda x: x, position)
    torch.testing.assert_close(with_a_stranger(stranger, position), expected)


def test_a_lazily_negated_input_keeps_its_sign():
    x = torch.randn(3, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(ops.mixed_sum([x], torch.ones(1)), x.clone())


@pytest.mark.parametrize("position", range(4))
def test_tensors_without_memory_anywhere(position):
    arguments = [torch.randn(2, 3) for _ in range(3)] + [torch.randn(3)]
    expected = mixed_sum_fwd(arguments[:3], arguments[3])
    arguments[position] = Wrapper(arguments[position])
    torch.testing.assert_close(mixed_sum_fwd(arguments[:3], arguments[3]), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        arguments[position] = mode.from_tensor(torch.randn(expected.shape if position < 3 else 3))
    y = mixed_sum_fwd(arguments[:3], arguments[3])
    assert type(y) is type(arguments[position])
    assert y.shape == expected.shape


@pytest.mark.parametrize("position", range(4))
def test_tensors_of_two_devices_are_refused(position):
    arguments = [torch.randn(2, 3) for _ in range(3)] + [torch.randn(3)]
    arguments[position] = arguments[position].to("meta")
    with pytest.raises(ValueError, match=r"mixed_sum_fwd: \w+ is on (cpu|meta), other tensors are on (cpu|meta)"):
        mixed_sum_fwd(arguments[:3], arguments[3])


def test_optional_tensors_are_looked_at_too():
    z, rows = torch.randn(2, 3, 4, 4), torch.ones(1, 3, dtype=torch.float64)
    arguments = [[z], torch.ones(1), rows, rows, rows, rows, None, 0]
    expected = mixed_norm_sum_fwd(*arguments)
    for k in range(1, 6):
        changed = [*arguments[:k], negated(arguments[k]), *arguments[k + 1 :]]
        torch.testing.assert_close(mixed_norm_sum_fwd(*changed), expected)
    none = z.new_empty(0)
    expected = pool_pair_bwd([None, z], [None, None], none, z, 1, [], none, 0, None)
    torch.testing.assert_close(pool_pair_bwd([None, negated(z)], [None, None], none, z, 1, [], none, 0, None), expected)


def test_a_function_mode_sees_the_operators():
    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen = []
    with Functions():
        found = run()
    assert "asose_fast.mixed_sum_fwd.default" in seen  # PyTorch keeps modes out of backward
    assert torch.equal(found, run())


def test_a_default_device_is_not_that_of_the_operators():
    norm = torch.nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    expected = ops.mixed_norm_sum([x], torch.ones(1), [norm])
    with torch.device("meta"):
        y = ops.mixed_norm_sum([x], torch.ones(1, device="cpu"), [norm])
        y.sum().backward()
    torch.testing.assert_close(y, expected)
