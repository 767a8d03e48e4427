"""On a GPU a mixed layer never waits: shown without one, on tensors that lie elsewhere and have no values."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from asose_fast.ops.norm_tables import norm_tables
from asose_fast.space import CANDIDATES, MixedOp
from tests.helpers import make_network

pytest.importorskip("triton")

from triton.runtime import jit

from benchmarks.without_gpu.fake import fake_gpu


class Copies(TorchFunctionMode):
    """Lists the calls that copy from the host what is not pinned there; each waits for the GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if getattr(function, "__name__", "") in ("tensor", "as_tensor", "new_tensor", "from_numpy", "cuda"):
            self.found.append(function.__name__)
        return function(*arguments, **(keywords or {}))


@pytest.fixture(name="fake_gpu")
def copies_to_a_fake_gpu(monkeypatch):
    """Tensors without values, launchers whose kernels do nothing, and the copies from the host.

    Whatever reads a value of a meta tensor raises.
    """
    monkeypatch.setattr(jit.KernelInterface, "__getitem__", lambda *_: lambda *_, **__: None)
    with fake_gpu(), Copies() as copies:
        yield copies


def test_waiting_is_seen(fake_gpu):
    x = torch.ones(3)
    for wait in (lambda: x.sum().item(), lambda: bool(x[0] > 0), x.tolist):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            wait()
    x.new_tensor([1.0])
    torch.tensor([1.0])
    assert fake_gpu.found == ["new_tensor", "tensor"]


def different(mixed):
    """Norms of every kind: the lists that describe them must not be copied to the GPU either."""
    norms = [m for m in mixed.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for k, norm in enumerate(norms):
        norm.eps, norm.momentum = 10.0 ** -(3 + k % 3), None if k % 2 else 0.1
    norms[0].eval()
    norms[-1].eval()


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("index", [None, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixed_operation(fake_gpu, dtype, stride, index, memory):
    mixed = MixedOp.named(tuple(CANDIDATES), 16, stride, fused=True, memory=memory)
    different(mixed.to(dtype))
    x = torch.empty(4, 16, 9, 8, dtype=dtype).requires_grad_()
    weights = torch.empty(len(CANDIDATES)).requires_grad_()
    shortcut = torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
    fake_gpu.found.clear()  # modules are built with copies
    y = mixed(x, weights, index, gain=torch.ones(()).requires_grad_(), shortcut=shortcut)
    assert (y.dtype, y.device.type) == (dtype, "meta")
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.float().sum().backward()
    assert x.grad.shape == x.shape
    assert weights.grad.shape == weights.shape
    assert not fake_gpu.found


@pytest.mark.parametrize("phase", ["weights", "alpha", "eval"])
def test_a_network(fake_gpu, phase):
    network = make_network(depth=2)
    for block in network.evolvable_blocks():
        block.mixed.fused = True
    network.train(phase != "eval").requires_grad_(phase == "weights")
    weights = torch.empty(2, len(CANDIDATES)).requires_grad_(phase == "alpha")
    index = [2, 5] if phase == "alpha" else None
    fake_gpu.found.clear()
    y = network(torch.empty(4, 3, 8, 8), weights, index)
    if phase != "eval":
        y.sum().backward()
    assert not fake_gpu.found


def test_norms_of_several_eps(fake_gpu):
    norms = [torch.nn.BatchNorm2d(3, eps=eps) for eps in (1e-3, 1e-5)]
    fake_gpu.found.clear()
    mean, var = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    mean, rstd = norm_tables(norms, [True, True], [mean], [var], 4, torch.float32)
    assert mean.shape == rstd.shape == (2, 3)
    assert not fake_gpu.found
