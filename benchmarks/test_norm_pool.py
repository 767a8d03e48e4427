"""How much faster is a batch norm, and the pooling after it, as one operator than PyTorch in channels_last?"""

import pytest
import torch
from torch import nn

from asose_fast import ops
from benchmarks.measure import interleaved, ratio


def step(function, x, norm, grad):
    parameters = list(norm.parameters())

    def run():
        y = function(x)
        return y, *torch.autograd.grad(y, [x, *parameters], grad)

    return run


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("shape", [(64, 24, 32, 32), (64, 48, 16, 16), (64, 96, 8, 8), (64, 24, 8, 8)], ids=str)
def test_forward_and_backward(benchmark, report, shape, pool):
    norm = nn.BatchNorm2d(shape[1])
    modules = nn.Sequential(norm, *([nn.MaxPool2d(2, ceil_mode=True)] if pool == 2 else []))
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(modules(x))
    variants = {
        "ours": step(lambda x: ops.norm_pool(x, norm, pool), x, norm, grad),
        "eager nhwc": step(modules, x, norm, grad),
    }
    for got, expected in zip(variants["ours"](), variants["eager nhwc"](), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    times = interleaved(variants)
    report(f"norm_pool fwd+bwd {shape} pool={pool} / eager nhwc", ratio(times["eager nhwc"], times["ours"]))
    benchmark.pedantic(variants["ours"], rounds=10, warmup_rounds=2)
