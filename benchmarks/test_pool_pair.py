"""How much faster are both poolings in one pass than PyTorch's two, in either layout?"""

import pytest
import torch

from asose_fast import ops
from asose_fast.ops.reference.pool_pair import reference
from benchmarks.measure import interleaved, ratio


def eager(x):
    return (
        torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        torch.nn.functional.max_pool2d(x, 3, 1, 1),
    )


def step(function, x, grads, format):
    x = x.clone(memory_format=format).requires_grad_()
    grads = [g.contiguous(memory_format=format) for g in grads]

    def run():
        ys = function(x)
        return *ys, *torch.autograd.grad(ys, x, grads)

    return run


@pytest.mark.parametrize("shape", [(64, 16, 32, 32), (64, 32, 16, 16)], ids=str)
def test_forward_and_backward(benchmark, report, shape):
    x, grads = torch.randn(shape), [torch.randn(shape) for _ in range(2)]
    variants = {
        "ours": step(ops.pool_pair, x, grads, torch.channels_last),
        "eager nchw": step(eager, x, grads, torch.contiguous_format),
        "eager nhwc": step(eager, x, grads, torch.channels_last),
    }
    exact = step(reference, x.double(), [g.double() for g in grads], torch.contiguous_format)()
    for got, expected in zip(variants["ours"](), exact, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    times = interleaved(variants)
    for name in ("eager nchw", "eager nhwc"):
        report(f"pool_pair fwd+bwd {shape} / {name}", ratio(times[name], times["ours"]))
    benchmark.pedantic(variants["ours"], rounds=10, warmup_rounds=2)
