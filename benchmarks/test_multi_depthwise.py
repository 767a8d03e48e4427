"""How much faster are the depthwise convolutions of a mixed layer in one pass?

`pytest -s benchmarks/test_multi_depthwise.py` times forward and backward of ReLU and the supernet's five depthwise
convolutions against PyTorch in both layouts and compiled, in one process, interleaved, after comparing the results.
`ASOSE_BENCH_ROUNDS` and `ASOSE_BENCH_THREADS` set the numbers of rounds and threads.
"""

import os
import statistics
import time

import pytest
import torch
from torch.nn import functional as F

from asose_fast import _native, ops

BRANCHES = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)]
DILATIONS = [d for _, d in BRANCHES]
SHAPES = [(64, 16, 32, 32), (64, 32, 16, 16)]
ROUNDS = int(os.environ.get("ASOSE_BENCH_ROUNDS", "15"))
THREADS = int(os.environ.get("ASOSE_BENCH_THREADS", torch.get_num_threads()))


def fused(x, *weights):
    return ops.multi_depthwise(x, weights, dilations=DILATIONS)


def eager(x, *weights):
    active = x.relu()
    return tuple(
        F.conv2d(active, w, None, 1, d * (w.shape[-1] - 1) // 2, d, w.shape[0])
        for w, d in zip(weights, DILATIONS, strict=True)
    )


class Contender:
    """One way to compute the layer, with inputs in the layout that it likes."""

    def __init__(self, function, leaves, grads, format):
        self.function = function
        self.leaves = [t.clone(memory_format=format).requires_grad_() for t in leaves]
        self.grads = [g.contiguous(memory_format=format) for g in grads]

    def __call__(self):
        ys = self.function(*self.leaves)
        return ys, torch.autograd.grad(ys, self.leaves, self.grads)

    def seconds(self):
        start = time.perf_counter()
        self()
        return time.perf_counter() - start


def deciles(values):
    """The 1st, 5th and 9th decile."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[4], cuts[8]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(shape):
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    leaves = [torch.randn(shape), *(torch.randn(shape[1], 1, k, k) for k, _ in BRANCHES)]
    grads = [torch.randn(shape) for _ in BRANCHES]
    contenders = {
        "asose_fast": Contender(fused, leaves, grads, torch.channels_last),
        "eager NCHW": Contender(eager, leaves, grads, torch.contiguous_format),
        "eager channels_last": Contender(eager, leaves, grads, torch.channels_last),
        "compiled NCHW": Contender(torch.compile(eager), leaves, grads, torch.contiguous_format),
        "compiled channels_last": Contender(torch.compile(eager), leaves, grads, torch.channels_last),
    }
    exact, exact_grads = Contender(eager, [t.double() for t in leaves], [g.double() for g in grads],
                                   torch.contiguous_format)()  # fmt: skip
    first = {}
    for name, contender in contenders.items():
        start = time.perf_counter()
        ys, gradients = contender()
        first[name] = time.perf_counter() - start
        for got, expected in zip((*ys, *gradients), (*exact, *exact_grads), strict=True):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4 * expected.std().item())

    for contender in contenders.values():
        contender()
    rounds = [{name: contender.seconds() for name, contender in contenders.items()} for _ in range(ROUNDS)]

    isa = _native.kernels("cpu").isa()
    print(
        f"\n{shape} float32, {THREADS} threads, {isa}, torch {torch.__version__}, median (1st..9th decile) of {ROUNDS}"
    )
    for name in contenders:
        low, middle, high = deciles([1e3 * r[name] for r in rounds])
        line = f"  {name:24}{middle:8.2f} ms ({low:.2f}..{high:.2f})"
        if name != "asose_fast":
            low, middle, high = deciles([r[name] / r["asose_fast"] for r in rounds])
            line += f"   {middle:6.1f}x ({low:.1f}..{high:.1f})"
        if name.startswith("compiled"):
            line += f"   first call {first[name]:.1f} s"
        print(line)
