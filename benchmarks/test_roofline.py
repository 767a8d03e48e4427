"""How near is each stage of a mixed operation to the lower bound that memory and arithmetic set?

A stage must read its inputs and write its outputs once, and do the multiplications and additions of its convolutions;
what it computes again does not count, and of minimal filtering the products alone do. The bound is the longer of the
two at the peaks of the same run: a copy too large for the caches and the fastest of some matrix products.
"""

import math
import statistics

import pytest
import torch

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.space import CANDIDATES, MixedOp
from benchmarks.measure import copier, interleaved

FIRST, SECOND = [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)], [(3, 1), (5, 1), (7, 1)]
NORMED = 8  # separable candidates, the 7x1 pair and two pools
fused = torch.ops.asose_fast


def peaks():
    """Products, and copies with their bytes."""
    products = {}
    for size in (256, 512, 1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        products[f"product {size}"] = (lambda a=a, b=b: a @ b, 2 * size**3)
    return products, copier(256)


def separable(xs, branches, affine):
    """Forward and backward of `separable`, with norms' backward on load."""
    n, c, h, w = xs[0].shape
    plan = DepthwisePlan(tuple(k for k, _ in branches), tuple(d for _, d in branches), len(xs), 1, True, affine)
    params, pointwise = torch.randn(sum(plan.rows), c), torch.randn(len(branches), c, c)
    zs = [torch.randn_like(xs[0]) for _ in branches]
    tables = torch.randn(len(branches), 4, c)
    flops = 2 * n * h * w * c * sum(k * k + c for k, _ in branches)
    tensors = len(xs), len(branches)
    yield "forward", lambda: fused.separable_fwd(xs, params, pointwise, *plan, True), flops, sum(tensors)
    yield (
        "backward",
        lambda: fused.separable_bwd(zs, zs, tables, xs, params, pointwise, *plan, [True] * len(xs), True, True, affine),
        2 * flops,
        2 * sum(tensors),
    )


def stages(x):
    """Name, function, FLOPs and tensors of x's size that it reads or writes."""
    c = x.shape[1]

    def like():
        return torch.randn_like(x)

    for name, xs, branches in (("first", [x], FIRST), ("second", [like() for _ in SECOND], SECOND)):
        for pass_, run, flops, moved in separable(xs, branches, name == "second"):
            yield f"{name} separable convolutions, {pass_}", run, flops, moved
    zs, weights = [like() for _ in range(NORMED)], torch.rand(NORMED + 1)
    mean, rstd = torch.zeros(NORMED, c, dtype=torch.float64), torch.ones(NORMED, c, dtype=torch.float64)
    flags = [True] * NORMED
    wanted = [False] * (NORMED - 1) + [True, False]  # that of the dense branch; the others apply it on load
    yield "statistics of the other branches", lambda: fused.batch_statistics(zs[:3]), 0, 3
    yield (
        "sum, forward",
        lambda: fused.mixed_norm_sum_fwd([*zs, x], weights, None, None, mean, rstd, None, 0),
        2 * (NORMED + 1) * x.numel(),
        NORMED + 2,
    )
    yield (
        "sum, backward",
        lambda: fused.mixed_norm_sum_bwd(
            zs[0], [*zs, x], weights, None, None, mean, rstd, flags, [*flags, True], wanted, True, True, True, None, 0
        ),
        2 * (NORMED + 1) * x.numel(),
        NORMED + 2 + 1,
    )
    tables = torch.randn(2, 4, c)
    yield "pools, forward", lambda: fused.pool_pair_fwd(x, 1, True, True, False, False), 0, 3
    yield (
        "pools, backward",
        lambda: fused.pool_pair_bwd(
            [zs[0]] * 2, zs[1:3], tables, x, 1, [zs[3], zs[0]], torch.tensor([1.0, 0.5]), 0, None
        ),
        0,
        6,
    )
    for kernel in ((1, 7), (7, 1)):
        weight = torch.randn(c, c, *kernel)
        flops = 2 * 10 * c * x.numel() // 4  # of minimal filtering, which takes 10 products for four outputs
        name = f"{kernel[0]}x{kernel[1]} convolution"
        yield f"{name}, forward", lambda w=weight: fused.dense_conv_fwd(x, w, 1, 1, True), flops, 2
        yield (
            f"{name}, backward",
            lambda w=weight: fused.dense_conv_bwd(zs[0], x, w, 1, 1, True, True, True),
            2 * flops,
            3,
        )


@pytest.mark.parametrize("shape", [(64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8)], ids=str)
def test_roofline(benchmark, report, shape):
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    mixed = MixedOp.named(tuple(CANDIDATES), shape[1], 1, fused=True).to(memory_format=torch.channels_last)
    leaf, gain = x.clone(memory_format=torch.preserve_format).requires_grad_(), torch.tensor(0.5, requires_grad=True)
    weights, grad = torch.rand(10, requires_grad=True), torch.randn_like(x)
    leaves = [leaf, weights, gain, *mixed.parameters()]

    def layer():
        return torch.autograd.grad(mixed(leaf, weights, gain=gain), leaves, grad)

    products, (copy, copied) = peaks()
    table = list(stages(x))
    times = interleaved(
        {name: run for name, run, *_ in table} | {name: run for name, (run, _) in products.items()}
        | {"copy": copy, "layer": layer}
    )  # fmt: skip
    seconds = {name: statistics.median(values) for name, values in times.items()}
    bandwidth = copied / seconds["copy"]
    arithmetic = max(flops / seconds[name] for name, (_, flops) in products.items())
    row = f"roofline {shape}"
    report(f"{row}: peaks", f"{bandwidth / 1e9:.1f} GB/s, {arithmetic / 1e9:.0f} GFLOP/s")
    bounds = []
    for name, _, flops, moved in table:
        traffic = moved * x.nbytes
        bounds.append(max(traffic / bandwidth, flops / arithmetic))
        report(
            f"{row}: {name}",
            f"{traffic / 1e6:.0f} MB, {flops / 1e9:.2f} GFLOP: at least {1e3 * bounds[-1]:.2f} ms, "
            f"took {1e3 * seconds[name]:.2f}: {bounds[-1] / seconds[name]:.0%}",
        )
    total = math.fsum(bounds)
    report(
        f"{row}: the whole layer, forward and backward",
        f"at least {1e3 * total:.1f} ms, took {1e3 * seconds['layer']:.1f}: {total / seconds['layer']:.0%}",
    )
    benchmark.pedantic(layer, rounds=5)
