"""How operators are called: directly, or through the dispatcher where somebody listens."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asose_fast import ops


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
