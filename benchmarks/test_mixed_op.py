"""From which size on do the stacked branches of one mixed operation pay?"""

import copy
import statistics

import pytest
import torch

from asose_fast.config import CANDIDATES
from asose_fast.space import MixedOp
from benchmarks.baselines import eager_mixed_sum
from benchmarks.measure import Duration, interleaved, ratio
from benchmarks.steps import LAYOUTS

SHAPES = [
    (2, 16, 4, 4),
    (2, 16, 8, 8),
    (8, 16, 8, 8),
    (64, 16, 4, 4),
    (64, 16, 32, 32),
    (64, 32, 16, 16),
    (64, 64, 8, 8),
    (16, 128, 8, 8),
    (8, 256, 8, 8),
]


def step(forward, mixed, x, weights, grad, format):
    """y and the gradients of x, of the weights and of the parameters, on copies in one layout."""
    mixed = copy.deepcopy(mixed).to(memory_format=format)
    leaves = [x.clone(memory_format=format).requires_grad_(), weights.clone().requires_grad_(), *mixed.parameters()]
    grad = grad.contiguous(memory_format=format)

    def run():
        y = forward(mixed, leaves[0], leaves[1])
        return y, *torch.autograd.grad(y, leaves, grad)

    return run


def eager(mixed, x, weights):
    return eager_mixed_sum([op(x) for op in mixed.ops.values()], weights)


def planned(mixed, fused):
    mixed = copy.deepcopy(mixed)
    mixed.fused = fused
    return mixed


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(benchmark, report, dry, shape, stride):
    torch.manual_seed(0)
    images, channels, height, width = (min(shape[0], 2), *shape[1:]) if dry else shape
    mixed = MixedOp.named(CANDIDATES, channels, stride)
    x, weights = torch.randn(images, channels, height, width), torch.randn(len(CANDIDATES)).softmax(0)
    tensors = [x, weights, torch.randn(images, channels, height // stride, width // stride)]
    variants = {f"eager {layout}": step(eager, mixed, *tensors, format) for layout, format in LAYOUTS.items()}
    for name, fused in (("one by one", False), ("stacked", True)):
        variants[name] = step(MixedOp.__call__, planned(mixed, fused), *tensors, torch.channels_last)
    exact = step(eager, copy.deepcopy(mixed).double(), *[t.double() for t in tensors], torch.contiguous_format)()
    for name, run in variants.items():
        for got, expected in zip(run(), exact, strict=True):
            # Rounding takes a few values across the zero of a ReLU, where the gradient jumps.
            assert (got - expected).norm() < 0.02 * expected.norm(), name

    times = interleaved(variants, rounds=50 if x.numel() < 2**15 else 15)
    row = f"mixed operation fwd+bwd {tuple(x.shape)}, stride {stride}, stacked"
    report(row, Duration(statistics.median(times["stacked"])))
    for name in list(variants)[:-1]:
        report(f"{row} / {name}", ratio(times[name], times["stacked"]))
    benchmark.pedantic(variants["stacked"], rounds=10)
