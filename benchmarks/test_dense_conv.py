"""How much faster is a dense convolution, with the ReLU before it, as one operator than PyTorch in channels_last?"""

import statistics

import pytest
import torch
from torch.nn import functional as F

from asose_fast import ops
from benchmarks.measure import Duration, interleaved, ratio

SHAPES = [
    (3, 24, 32),
    (24, 24, 32),
    (24, 24, 16),
    (24, 48, 16),
    (48, 48, 8),
    (48, 96, 8),
    (96, 96, 4),
    (16, 16, 32),
    (34, 34, 32),
    (64, 64, 8),
    (128, 128, 16),
]
"""Input and output channels and the side of 64 images: those of stages with 24 channels, then of others."""


def step(function, leaves, grad):
    def run():
        y = function(*leaves)
        return y, *torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], grad)

    return run


@pytest.mark.parametrize(("inputs", "outputs", "side"), SHAPES)
def test_forward_and_backward(benchmark, report, batch, inputs, outputs, side):
    first = inputs == 3
    x = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last).requires_grad_(not first)
    weight = (torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5).contiguous(memory_format=torch.channels_last)
    leaves = x, weight.requires_grad_()
    grad = torch.randn(batch, outputs, side, side).contiguous(memory_format=torch.channels_last)
    variants = {
        "ours": step(lambda x, w: ops.dense_conv(x, w, relu=not first), leaves, grad),
        "eager nhwc": step(lambda x, w: F.conv2d(x if first else x.relu(), w, padding=1), leaves, grad),
    }
    for got, expected in zip(variants["ours"](), variants["eager nhwc"](), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    times = interleaved(variants)
    row = f"dense_conv fwd+bwd 3x3 {inputs} to {outputs}, {side}x{side}, batch {batch}"
    report(row, Duration(statistics.median(times["ours"])))
    report(f"{row} / eager nhwc", ratio(times["eager nhwc"], times["ours"]))
    benchmark.pedantic(variants["ours"], rounds=10, warmup_rounds=2)
