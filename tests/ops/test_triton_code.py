"""Triton's kernels without a GPU: each is launched as the operators launch it, compiled, and its code looked at."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re

import pytest

pytest.importorskip("triton")

import torch
import triton
import triton.language as tl

import asose_fast.ops.triton
from asose_fast.ops.triton.last_program import arrives_last
from asose_fast.ops.triton.tiles import launched
from benchmarks.without_gpu.code import read
from benchmarks.without_gpu.kernels import CHANNELS, DTYPES, FEW_WARPS, NARROW, ON_TABLES, SPILLS, Row, rows
from benchmarks.without_gpu.recording import recorded

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1" or "nvidia" not in triton.backends.backends,
    reason="nothing is compiled for a GPU",
)


def kernels():
    """The names of all kernels that are launched."""
    package = asose_fast.ops.triton
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return {name for module in modules for name, value in vars(module).items() if isinstance(value, launched)}


def test_every_kernel_is_launched_and_its_code_is_good():
    found = rows(90, "bf16", 24, strides=[1])
    assert not [fault for row in found for fault in row.faults()]
    assert {row.kernel for row in found} == kernels()
    assert kernels() > ON_TABLES | FEW_WARPS.keys() | NARROW.keys() | SPILLS.keys()


@pytest.mark.long
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", [80, 90])
def test_the_code_is_good_at_every_width(arch, dtype, channels):
    assert not [fault for row in rows(arch, dtype, channels) for fault in row.faults()]


@triton.jit
def _strided_kernel(x, y, distance, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at * distance))


@triton.jit
def _hoarding_kernel(x, y, ROWS: tl.constexpr):
    at = tl.arange(0, 128)
    kept = ()
    for i in tl.static_range(ROWS):
        kept = kept + (tl.load(x + i * 128 + at),)  # noqa: RUF005 (the compiler knows no star)
    tl.debug_barrier()
    for i in tl.static_range(ROWS):
        tl.store(y + i * 128 + at, kept[ROWS - 1 - i])


@triton.jit
def _counting_kernel(x, counter, PROGRAMS: tl.constexpr):
    at = tl.arange(0, 128)
    tl.store(x + tl.program_id(0) * 128 + at, at.to(tl.float32))
    if arrives_last(counter, PROGRAMS):
        total = tl.zeros([128], tl.float32)
        for i in tl.static_range(PROGRAMS):
            total += tl.load(x + i * 128 + at)
        tl.store(x + at, total)


def code(kernel, *arguments):
    x = torch.empty(1, dtype=torch.float32, device="meta")
    with recorded(90) as launches:
        kernel[(3, 2)](x, x, *arguments)
    (launch,) = launches
    assert launch.programs == (3, 2, 1)
    return read(launch.cubin, launch.ptx), launch


def test_what_is_wrong_is_seen():
    narrow, _ = code(_strided_kernel, 2, 1024)
    wide, launch = code(_strided_kernel, 1, 1024)
    assert (narrow.width(), wide.width(), wide.loads) == (32, 128, {128: 2})
    assert wide.resident(launch.warps) == 64
    hoarding, launch = code(_hoarding_kernel, 300)
    assert hoarding.spills
    assert (hoarding.registers, hoarding.resident(launch.warps)) == (255, 8)
    lines = Row("some", "bf16", 16, hoarding.registers, hoarding.spills, narrow.width(), 8).faults()
    assert len(lines) == 3
    assert lines[1:] == [
        "some, bf16, 16 channels: half of the loads have at most 32 bits, must have 64",
        "some, bf16, 16 channels: 8 resident warps with 255 registers, must be 16",
    ]


@pytest.mark.parametrize("arch", [80, 90])
def test_the_last_program_sees_what_all_have_written(arch):
    with recorded(arch) as launches:
        _counting_kernel[(3,)](torch.empty(384, device="meta"), torch.empty(1, dtype=torch.int32, device="meta"), 3)
    found = re.findall(r"st\.global|bar\.sync|atom\S*|ld\.global", launches[0].ptx)
    counted = "atom.global.gpu.acq_rel.add.u32"
    assert found[: found.index("ld.global")] == ["st.global", "bar.sync", counted, "bar.sync", "st.global"]
    assert found.count(counted) == 1


def test_a_launch_that_fails_raises():
    with pytest.raises(TypeError):
        code(_strided_kernel, {"no": "number"}, 1024)
