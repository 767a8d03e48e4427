"""What is told of the GPU engine without a GPU: counted as stored, no worse than asked, and so on the pages."""

from __future__ import annotations

import dataclasses
import os

import pytest

pytest.importorskip("triton")

import torch
import triton

from benchmarks.without_gpu import __main__ as pages
from benchmarks.without_gpu import cuda, launches
from benchmarks.without_gpu.fake import fake_gpu
from benchmarks.without_gpu.kernels import CHANNELS, DTYPES, Row, rows

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled for a GPU")
MOST_LAUNCHES = {
    **{f"layer, stride {stride}, {dtype}": 24 + 5 * stride for stride in (1, 2) for dtype in ("fp32", "bf16")},
    "ours, soft, fp32": 221,
    **{f"ours, sampled, {dtype}": 94 for dtype in ("fp32", "bf16")},
}
"""Of a layer and of a network of six, forward and backward."""
MOST_MOVED = {
    "layer, stride 1, fp32": 110,
    "layer, stride 2, fp32": 50,
    "layer, stride 1, bf16": 105,
    "layer, stride 2, bf16": 50,
}
"""In tensors of the layer's input."""


def same_versions():
    here = {"torch": torch.__version__.split("+")[0], "triton": triton.__version__}
    return here.items() <= pages.stored()["versions"].items()


def test_a_layer_and_a_step_launch_and_move_no_more_than_is_stored():
    found, stored = launches.collect(), pages.stored()["counts"]
    assert found.keys() == stored.keys() > MOST_LAUNCHES.keys() | MOST_MOVED.keys()
    for name, counts in found.items():
        assert counts["launches"] <= MOST_LAUNCHES.get(name, counts["launches"])
        assert name not in MOST_MOVED or counts["tensors"] <= MOST_MOVED[name]
        if same_versions():
            assert counts == stored[name], "`python -m benchmarks.without_gpu --measure` stores what was meant"
    assert found["ours, soft, fp32"]["launches"] < found["eager, soft, fp32"]["launches"]
    assert found["ours, soft, fp32"]["gigabytes"] < 0.6 * found["eager, soft, fp32"]["gigabytes"]


def test_what_is_launched_and_moved_is_counted():
    with fake_gpu():
        x = torch.empty(1000, requires_grad=True)
        found = launches.count(lambda: (x.view(10, 100).t() * 2).relu())
    assert found.names == {"mul": 2, "relu": 1, "threshold_backward": 1}
    assert found.own == 0
    # A product reads and writes 1000 floats, so does relu; backward of relu reads two tensors.
    assert found.moved == 4 * 1000 * (2 + 2 + 3 + 2)


@pytest.mark.parametrize("of_images", [False, True])
def test_each_gradient_of_a_convolution_is_a_launch(of_images):
    with fake_gpu():
        convolution = torch.nn.Conv2d(3, 4, 3, bias=False)
        found = launches.count(lambda: convolution(torch.empty(2, 3, 8, 8, requires_grad=of_images)))
    assert found.names["convolution_backward"] == 1 + of_images


def test_the_stored_kernels_are_as_they_should_be():
    kernels = [Row(*row) for row in pages.stored()["kernels"]]
    assert {(row.dtype, row.channels) for row in kernels} == {(d, c) for d in DTYPES for c in CHANNELS}
    of_cuda = [cuda.Row(*row) for row in pages.stored()["cuda"]]
    assert {row.kernel for row in of_cuda} >= cuda.ON_TABLES | cuda.SPILLS.keys()
    assert not [fault for row in [*kernels, *of_cuda] for fault in row.faults()]


@pytest.mark.long
def test_the_stored_kernels_are_those_of_these_sources():
    if not same_versions():
        pytest.skip("another compiler makes other code")
    stored = {row for row in map(tuple, pages.stored()["kernels"]) if row[1:3] == ("bf16", 24)}
    assert stored == {
        (r.kernel, r.dtype, r.channels, r.registers, r.spills, r.width, r.warps) for r in rows(90, "bf16", 24)
    }


@pytest.mark.long
@pytest.mark.skipif(bool(cuda.missing()), reason=str(cuda.missing()))
def test_the_stored_cuda_kernels_are_those_of_these_sources():
    if cuda.compiler() != pages.stored()["versions"]["nvcc"]:
        pytest.skip("another compiler makes other code")
    assert [tuple(row) for row in pages.stored()["cuda"]] == [dataclasses.astuple(row) for row in cuda.rows(90)]


def test_the_pages_hold_the_stored_figures(tmp_path, monkeypatch, capsys):
    if not pages.PAGES[0].exists():
        pytest.skip("needs the documents")
    assert pages.main(["--check"]) == 0, capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text("<!-- without_gpu: predictions -->\n<!-- /without_gpu -->\n")
    monkeypatch.setattr(pages, "PAGES", [page])
    assert pages.main(["--check"]) == 1
    assert pages.main([]) == 0
    assert "| ours, soft, bf16 |" in page.read_text()
