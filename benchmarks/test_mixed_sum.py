"""How fast is mixed_sum, beside eager sum(w * x), torch.compile of it, and the copy bandwidth of the same run?"""

import pytest
import torch

from asose_fast import ops
from benchmarks.baselines import eager_mixed_sum
from benchmarks.measure import copier, copy_fraction, interleaved, ratio

K = 10
SHAPES = [(64, 32, 32, 32), (64, 16, 32, 32), (64, 64, 8, 8), (2, 16, 8, 8)]


def step(mix, xs, weights, grad):
    def run():
        mix(xs, weights).backward(grad)
        for tensor in (*xs, weights):
            tensor.grad = None

    return run


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, report, with_compile, shape, format):
    xs = [torch.randn(shape).to(memory_format=format).requires_grad_() for _ in range(K)]
    weights = torch.randn(K, requires_grad=True)
    grad = torch.randn(shape).to(memory_format=format)
    torch.testing.assert_close(ops.mixed_sum(xs, weights), eager_mixed_sum(xs, weights), atol=1e-5, rtol=1e-5)

    copy, copied_bytes = copier(2 * xs[0].numel() * 4 * K // 1_000_000 or 1)
    variants = {
        "ours": step(ops.mixed_sum, xs, weights, grad),
        "eager": step(eager_mixed_sum, xs, weights, grad),
        "copy": copy,
    }
    if with_compile:
        variants["compile"] = step(torch.compile(eager_mixed_sum), xs, weights, grad)
    times = interleaved(variants, rounds=25)

    # Forward reads K and writes 1; backward reads K + 1 and writes K.
    moved = (3 * K + 2) * xs[0].numel() * 4
    row = f"mixed_sum fwd+bwd K={K} {shape} {'nchw' if format == torch.contiguous_format else 'nhwc'}"
    report(f"{row} / eager", ratio(times["eager"], times["ours"]))
    if with_compile:
        report(f"{row} / torch.compile", ratio(times["compile"], times["ours"]))
    report(f"{row} fraction of copy", copy_fraction(times["ours"], moved, times["copy"], copied_bytes))
    benchmark.pedantic(variants["ours"], rounds=10, warmup_rounds=2)
