"""How fast is mixed_norm_sum, beside eager sum(w * bn(z)), torch.compile of it, and the copy bandwidth?"""

import copy

import pytest
import torch
from torch import nn

from asose_fast import ops
from benchmarks.baselines import eager_mixed_sum
from benchmarks.measure import copier, copy_fraction, interleaved, ratio

K = 8
SHAPES = [(64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8), (2, 16, 8, 8)]


def eager(zs, weights, norms):
    return eager_mixed_sum([norm(z) for norm, z in zip(norms, zs, strict=True)], weights)


def step(mix, zs, weights, norms, grad):
    def run():
        mix(zs, weights, norms).backward(grad)
        for tensor in (*zs, weights):
            tensor.grad = None

    return run


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, report, with_compile, shape, format):
    zs = [torch.randn(shape).to(memory_format=format).requires_grad_() for _ in range(K)]
    weights = torch.randn(K, requires_grad=True)
    norms = [nn.BatchNorm2d(shape[1], affine=False) for _ in range(K)]
    grad = torch.randn(shape).to(memory_format=format)
    expected = eager(zs, weights, copy.deepcopy(norms))
    torch.testing.assert_close(ops.mixed_norm_sum(zs, weights, copy.deepcopy(norms)), expected, atol=1e-4, rtol=1e-4)

    copying, copied_bytes = copier(2 * zs[0].numel() * 4 * K // 1_000_000 or 1)
    variants = {
        "ours": step(ops.mixed_norm_sum, zs, weights, norms, grad),
        "eager": step(eager, zs, weights, norms, grad),
        "copy": copying,
    }
    if with_compile:
        variants["compile"] = step(torch.compile(eager), zs, weights, norms, grad)
    times = interleaved(variants, rounds=25)

    # Statistics read K, the sum reads K and writes 1; backward reads K + 1, then K + 1 again, and writes K.
    moved = (5 * K + 3) * zs[0].numel() * 4
    row = f"mixed_norm_sum fwd+bwd K={K} {shape} {'nchw' if format == torch.contiguous_format else 'nhwc'}"
    report(f"{row} / eager", ratio(times["eager"], times["ours"]))
    if with_compile:
        report(f"{row} / torch.compile", ratio(times["compile"], times["ours"]))
    report(f"{row} fraction of copy", copy_fraction(times["ours"], moved, times["copy"], copied_bytes))
    benchmark.pedantic(variants["ours"], rounds=10, warmup_rounds=2)
