"""How much faster are a mixed layer's depthwise convolutions in one pass than PyTorch's, eager and compiled?"""

import statistics
import time

import pytest
import torch
from torch.nn import functional as F

from asose_fast import ops
from benchmarks.measure import Duration, interleaved, ratio

BRANCHES = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)]
DILATIONS = [d for _, d in BRANCHES]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def fused(x, *weights):
    return ops.multi_depthwise(x, weights, dilations=DILATIONS)


def eager(x, *weights):
    active = x.relu()
    return tuple(
        F.conv2d(active, w, None, 1, d * (w.shape[-1] - 1) // 2, d, w.shape[0])
        for w, d in zip(weights, DILATIONS, strict=True)
    )


def step(function, leaves, grads, format):
    """Forward and backward, on tensors of its own in one layout."""
    leaves = [t.clone(memory_format=format).requires_grad_() for t in leaves]
    grads = [g.contiguous(memory_format=format) for g in grads]

    def run():
        ys = function(*leaves)
        return *ys, *torch.autograd.grad(ys, leaves, grads)

    return run


@pytest.mark.parametrize("shape", [(64, 16, 32, 32), (64, 32, 16, 16)], ids=str)
def test_forward_and_backward(benchmark, report, with_compile, shape):
    leaves = [torch.randn(shape), *(torch.randn(shape[1], 1, k, k) for k, _ in BRANCHES)]
    grads = [torch.randn(shape) for _ in BRANCHES]
    variants = {"ours": step(fused, leaves, grads, torch.channels_last)}
    row = f"multi_depthwise fwd+bwd {shape}"
    for name, format in LAYOUTS.items():
        variants[f"eager {name}"] = step(eager, leaves, grads, format)
        if with_compile:
            torch.compiler.reset()
            variants[f"torch.compile {name}"] = step(torch.compile(eager), leaves, grads, format)
            start = time.perf_counter()
            with torch._inductor.config.patch(force_disable_caches=True):
                variants[f"torch.compile {name}"]()
            report(f"{row} torch.compile {name}, first call", Duration(time.perf_counter() - start))

    exact = step(eager, [t.double() for t in leaves], [g.double() for g in grads], torch.contiguous_format)()
    for run in variants.values():
        for got, expected in zip(run(), exact, strict=True):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4 * expected.std().item())

    times = interleaved(variants)
    report(row, Duration(statistics.median(times["ours"])))
    for name in variants:
        if name != "ours":
            report(f"{row} / {name}", ratio(times[name], times["ours"]))
    benchmark.pedantic(variants["ours"], rounds=10, warmup_rounds=2)
