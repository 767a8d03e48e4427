"""The CUDA kernels without a GPU: compiled by nvcc, and their code looked at."""

from __future__ import annotations

import pytest

from benchmarks.without_gpu import cuda
from benchmarks.without_gpu.cuda import DTYPES, ON_TABLES, ONE_BY_ONE, SOURCES, SPILLS, WAYS, Row, kernels, rows

needs_compiler = pytest.mark.skipif(bool(cuda.missing()), reason=str(cuda.missing()))
HOARDING = """
namespace {
template <class T>
struct Dense {};

template <class T, class Layout>
__global__ void __launch_bounds__(1024) hoarding_kernel(const T* x, T* y, int steps) {
  T kept[120];
#pragma unroll
  for (int i = 0; i < 120; ++i) kept[i] = x[i * 1024 + threadIdx.x];
  for (int s = 0; s < steps; ++s)
#pragma unroll
    for (int i = 0; i < 120; ++i) kept[i] += kept[(i * 7 + 1) % 120] * x[s];
#pragma unroll
  for (int i = 0; i < 120; ++i) y[i * 1024 + threadIdx.x] = kept[i];
}
template __global__ void hoarding_kernel<float, Dense<float>>(const float*, float*, int);
}  // namespace
"""


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("arch", [80, 90])
def test_the_code_is_good(arch):
    found = rows(arch)
    assert not [fault for row in found for fault in row.faults()]
    names = {name for source in SOURCES.glob("*.cu") for name in kernels(source)}
    assert {row.kernel for row in found} == names - {"probe_kernel"}  # that one only asks whether the device is there
    assert {row.way for row in found} == {"", *WAYS.values()}
    assert {row.dtype for row in found} == set(DTYPES.values())
    assert names > ON_TABLES | SPILLS.keys()


@pytest.mark.long
@needs_compiler
def test_what_is_wrong_is_seen(tmp_path):
    source = tmp_path / "hoarding.cu"
    source.write_text(HOARDING)
    (row,) = rows(90, [source])
    assert (row.kernel, row.way, row.dtype, row.width, row.warps) == ("hoarding_kernel", "dense", "fp32", 32, 32)
    spilled, narrow = row.faults()
    assert spilled.startswith("hoarding_kernel, dense, fp32: ")
    assert "bytes of spilled registers, must be 8" in spilled
    assert narrow == "hoarding_kernel, dense, fp32: no load has more than 32 bits, must have 128"


def test_limits_and_their_exceptions():
    assert not Row("some_kernel", "dense", "bf16", 40, 8, 128, 16).faults()
    assert Row("some_kernel", "dense", "bf16", 250, 0, 128, 8).faults() == [
        "some_kernel, dense, bf16: 8 resident warps with 250 registers, must be 16"
    ]
    for kernel, (most, _) in SPILLS.items():
        assert not Row(kernel, "dense", "bf16", 80, most, 128, 24).faults()
        assert len(Row(kernel, "dense", "bf16", 80, most + 4, 128, 24).faults()) == 1
    assert not any(Row("some_kernel", way, "bf16", 40, 0, 16, 24).faults() for way in ONE_BY_ONE)
    assert not Row(min(ON_TABLES), "", "fp32", 255, 0, 32, 8).faults()
