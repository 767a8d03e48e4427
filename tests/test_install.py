"""The installed kernels: found from anywhere, explained where missing or stale, one OpenMP runtime, every ISA."""

from pathlib import Path

import pytest
import torch

from tests.helpers import INSTRUCTION_SETS, ROOT, python, skip_without

RUN = """
import torch, warnings
from asose_fast import ops
x = torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(0))
xs = [x.roll(k).requires_grad_() for k in range(5)]
w = torch.linspace(-1, 1, 5).requires_grad_()
"""


def output(code, **keywords):
    done = python("-c", code, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_the_kernels_are_used(tmp_path, place):
    cwd = ROOT if place == "root" else tmp_path
    code = (
        "from asose_fast.ops import registry\n"
        "print([registry.why_not(op, 'cpu', 'cpu') for op in registry.operators()])"
    )
    assert set(output(code, cwd=cwd)[1:-1].split(", ")) == {"None"}


MISSING = f"""
import sys
sys.modules["asose_fast_kernels"] = None
{RUN}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = [ops.mixed_sum(xs, w) for _ in range(3)][0]
    y.sum().backward()
for warning in caught:
    print(warning.category.__name__, warning.message)
assert torch.allclose(y, sum(a * x for a, x in zip(w, xs)), atol=1e-5)
from asose_fast import info
print(info.collect()["missing"]["mixed_sum"]["cpu"])
"""


def test_missing_kernels_warn_once_and_are_explained():
    warned, reason = output(MISSING).splitlines()
    assert warned.startswith("RuntimeWarning mixed_sum runs as plain PyTorch on cpu; cpu: the compiled cpu kernels do")
    assert "run `pip install .` in the source folder" in warned
    assert reason in warned


STALE = """
from asose_fast import _native
import asose_fast_kernels.cpu as kernels
kernels.source_digest = "0" * 64
print(_native.kernels_missing("cpu"))
"""


def test_stale_kernels_are_noticed():
    assert output(STALE, cwd=ROOT) == (
        "the installed cpu kernels were built from other sources than csrc/: run `pip install .`"
    )


def test_there_is_one_openmp_runtime():
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc/self/maps")
    code = RUN + (
        "ops.mixed_sum(xs, w).sum().backward()\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps') if '/' in line}\n"
        "print(*(p for p in paths if any(n in p.split('/')[-1] for n in ('libgomp', 'libomp', 'libiomp'))), sep='\\n')"
    )
    assert len(output(code, OMP_NUM_THREADS="2").splitlines()) == 1


RESULTS = RUN + (
    "y = ops.mixed_sum(xs, w); y.square().sum().backward()\n"
    "logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()\n"
    "a = ops.arch_weights(logits, 0.7, hard=False, boost=ops.Boost(), rng=torch.tensor([3, 4]))\n"
    "a.weights.square().sum().backward()\n"
    "out = [y.detach(), w.grad, *(x.grad for x in xs), a.weights.detach(), a.index, a.entropy, logits.grad]\n"
    "from asose_fast import _native\n"
    "print(_native.kernels('cpu').isa())\n"
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What plain PyTorch computes."""
    path = tmp_path_factory.mktemp("plain") / "expected"
    plain = RESULTS.replace("y = ops", "forced = ops.backend('reference'); forced.__enter__(); y = ops")
    output(f"{plain}torch.save(out, {str(path)!r})")
    return torch.load(path)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set_computes_the_same(isa, expected, tmp_path):
    skip_without(isa)
    assert output(f"{RESULTS}torch.save(out, {str(tmp_path / 'got')!r})", ASOSE_ISA=isa) == isa
    for got, wanted in zip(torch.load(tmp_path / "got"), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())
