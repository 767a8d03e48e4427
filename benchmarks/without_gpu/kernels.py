"""Every Triton kernel as the operators launch it, and what is asked of its code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from asose_fast import ops
from asose_fast.ops.mixed_layer import Stage
from asose_fast.space import CANDIDATES, MixedOp
from benchmarks.without_gpu.code import LEAST_WARPS, MOST_SPILLS, cell, read, worst
from benchmarks.without_gpu.fake import fake_gpu
from benchmarks.without_gpu.recording import recorded

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CHANNELS = (16, 24, 36, 48, 64, 128)
"""Those of a search, and of networks that were widened by half."""
BATCH, SIDE = 128, 32

LEAST_BITS = 64
"""Of half of the loads at least."""
ON_TABLES = {
    "_arch_weights_fwd_kernel",
    "_arch_weights_bwd_kernel",
    "_chain_kernel",
    "_grad_weights_kernel",
    "_linear_bwd_kernel",
    "_linear_fwd_kernel",
    "_merge_kernel",
    "_norm_tables_kernel",
    "_norm_lerp_tables_kernel",
    "_norm_relu_mean_sums_kernel",
    "_one_norm_kernel",
    "_pack_kernel",
    "_pointwise_sums_kernel",
    "_tables_kernel",
    "_term_weights_bwd_kernel",
    "_term_weights_fwd_kernel",
    "_terms_kernel",
    "_unpack_kernel",
}
"""Kernels of few programs that read no images: neither width nor warps make them faster."""
FEW_WARPS = {
    "_mixed_norm_sum_fwd_kernel": "all loads of its terms and tables are in flight at once: 18 of images a thread",
    "_multi_depthwise_fwd_kernel": "as the next one, on sm_80",
    "_inputs_bwd_kernel": "the loads of a row of taps are in flight at once, and CUDA's kernel runs where it is built",
    "_weights_bwd_kernel": "a sum for each tap of a row is kept, and CUDA's kernel runs where it is built",
    "_depthwise_product_kernel": "the loads of a row of taps are in flight at once, and sums of a product kept",
    "_products_kernel": "a thread keeps a tile's inputs, in fp32 as sums of TF32, and its sums",
    "_products_bwd_kernel": "as the last one",
    "_pointwise_fwd_kernel": "as the last one",
    "_pointwise_inputs_kernel": "as the last one",
    "_pointwise_weights_kernel": "as the last one, on sm_80",
    "_pool_pair_fwd_kernel": "the nine loads of a window are in flight at once, on sm_80",
    "_pool_pair_bwd_kernel": "nine windows of two gradients, an input and a place are in flight at once",
}
"""Why these may have fewer resident warps, though not fewer than 8."""
SPILLS = {
    "_depthwise_product_kernel": (
        48,
        "with 128 registers two programs are resident, and the stack is in the first-level cache",
    )
}
"""The bytes of stack that these may have, and why."""
NARROW = {"_pointwise_weights_kernel": "half of 36 channels are 18, which no wider load divides"}
"""Why half of the loads of these may have 32 bits."""


@dataclasses.dataclass(frozen=True, order=True)
class Row:
    """The worst of a kernel's variants in a dtype, with so many channels."""

    kernel: str
    dtype: str
    channels: int
    registers: int
    spills: int
    width: int
    """Bits of at least half of the loads."""
    warps: int
    """Resident on a multiprocessor, of 64."""

    def faults(self) -> list[str]:
        """What is not as it should be, a line each."""
        where = f"{self.kernel}, {self.dtype}, {self.channels} channels"
        most, _ = SPILLS.get(self.kernel, (MOST_SPILLS, ""))
        found = [f"{where}: {self.spills} bytes of spilled registers"] if self.spills > most else []
        if self.kernel in ON_TABLES:
            return found
        bits = 32 if self.kernel in NARROW else LEAST_BITS
        if self.width < bits:
            found.append(f"{where}: half of the loads have at most {self.width} bits, must have {bits}")
        least = 8 if self.kernel in FEW_WARPS else LEAST_WARPS
        if self.warps < least:
            found.append(f"{where}: {self.warps} resident warps with {self.registers} registers, must be {least}")
        return found


def rows(arch: int, dtype: str, channels: int, strides: Iterable[int] = (1, 2)) -> list[Row]:
    """Compiles the kernels of all operators, forward and backward, for sm_80 or sm_90, and reads their code."""
    with fake_gpu(), recorded(arch) as launches:
        for stride in strides:
            _layer(DTYPES[dtype], channels, stride)
        _lone(DTYPES[dtype], channels)
        _chain(DTYPES[dtype], channels)
        _head(DTYPES[dtype], channels)
        _sums_and_samples(DTYPES[dtype], channels)
    found: dict[str, Row] = {}
    for launch in {launch.cubin: launch for launch in launches}.values():
        name, code = launch.name, read(launch.cubin, launch.ptx)
        other = found.get(name)
        row = Row(name, dtype, channels, code.registers, code.spills, code.width(), code.resident(launch.warps))
        found[name] = row if other is None else worst(row, other)
    return sorted(found.values())


def _images(dtype: torch.dtype, channels: int, side: int = SIDE) -> torch.Tensor:
    shape = (BATCH, channels, side, side)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last).requires_grad_()


def _layer(dtype: torch.dtype, channels: int, stride: int) -> None:
    mixed = MixedOp.named(tuple(CANDIDATES), channels, stride, fused=True).to(memory_format=torch.channels_last)
    weights = torch.empty(len(CANDIDATES), requires_grad=True)
    gain = torch.ones((), requires_grad=True)
    x = _images(dtype, channels)
    shortcut = x if stride == 1 else _images(dtype, channels, SIDE // stride)
    mixed.to(dtype)(x, weights, gain=gain, shortcut=shortcut).float().sum().backward()
    mixed.requires_grad_(False)(x.detach(), weights).float().sum().backward()


def _lone(dtype: torch.dtype, channels: int) -> None:
    x, gain = _images(dtype, channels), torch.ones((), requires_grad=True)
    weights = [torch.empty(size, channels, 1, 1).requires_grad_() for size in (channels // 2, channels - channels // 2)]
    z = ops.pointwise(x, weights, stride=2)
    shortcut = _images(dtype, channels, SIDE // 2)
    ops.norm_lerp(z, nn.BatchNorm2d(channels), shortcut, gain).float().sum().backward()


def _chain(dtype: torch.dtype, channels: int) -> None:
    def stage(kernel: int = 5) -> Stage:
        depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        return Stage(depthwise, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    x, gain = _images(dtype, channels), torch.ones((), requires_grad=True)
    ops.separable_norm(x, [stage(), stage()], shortcut=x, gain=gain).float().sum().backward()
    ops.separable_norm(x, [stage()]).float().sum().backward()
    # More taps than `_depthwise_product_kernel` takes, the gradient of x alone, and a norm by its running statistics.
    fixed = Stage(*(part.requires_grad_(False).eval() for part in stage(9)))
    ops.separable_norm(x, [fixed]).float().sum().backward()


def _head(dtype: torch.dtype, channels: int) -> None:
    features = ops.norm_relu_mean(_images(dtype, channels, SIDE // 4), nn.BatchNorm2d(channels))
    weight, bias = (torch.empty(shape, dtype=dtype, requires_grad=True) for shape in ((10, channels), (10,)))
    ops.linear(features, weight, bias).float().sum().backward()


def _sums_and_samples(dtype: torch.dtype, channels: int) -> None:
    weights = torch.empty(len(CANDIDATES), requires_grad=True)
    ops.mixed_sum([_images(dtype, channels) for _ in CANDIDATES], weights).float().sum().backward()
    logits = torch.empty(6, len(CANDIDATES), requires_grad=True)
    rng = torch.empty(2, dtype=torch.int64)
    ops.arch_weights(logits, 1.0, boost=ops.Boost(), rng=rng).weights.sum().backward()


def table(rows: Iterable[Row]) -> Iterator[list[str]]:
    """The rows as those of a page: a line for a kernel and dtype, a column for a number of channels."""
    yield ["kernel", "dtype", *(f"C={channels}" for channels in CHANNELS)]
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for row in sorted(rows):
        cells.setdefault((row.kernel, row.dtype), {})[row.channels] = cell(row)
    for (kernel, dtype), found in cells.items():
        yield [f"`{kernel.strip('_')}`", dtype, *(found.get(channels, "") for channels in CHANNELS)]
