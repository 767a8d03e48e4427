"""The CUDA kernels on the CPU. Run by test_cuda_emulation.py in a process with AddressSanitizer.

The launchers, the bindings and the kernels are those of the GPU; CUDA itself is tests/cuda_emulation.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

import pytest
import torch

from asose_fast import _native, ops
from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan, pack
from asose_fast.ops.native import multi_depthwise_cuda
from tests.ops.backend_checks import ArchWeightsChecks, EveryOperatorChecks, MixedSumChecks
from tests.ops.depthwise_cases import SUPERNET, run
from tests.ops.multi_depthwise_checks import MultiDepthwiseChecks, make_case

PATH = Path(os.environ["ASOSE_CUDA_EMULATION"]) / "cuda.so"
EMULATED = [op for op in registry.operators() if "cuda" in registry.backends(op)]


@pytest.fixture(scope="session")
def module():
    spec = importlib.util.spec_from_file_location("cuda", PATH)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def emulator(module):
    return ctypes.CDLL(str(PATH))


@pytest.fixture(autouse=True)
def _emulated(module, emulator, monkeypatch):
    """CPU tensors go to the CUDA backend. A test that launches no kernel fails."""
    monkeypatch.setattr(_native, "kernels", lambda name: module)
    monkeypatch.setattr(_native, "kernels_missing", lambda name: None)
    for op in EMULATED:
        monkeypatch.setitem(registry._MODULES[op], "cpu", registry._MODULES[op]["cuda"])
    for function in (registry.why_not, registry._usable):
        function.cache_clear()
    before = emulator.emulation_launches()
    yield
    emulator.emulation_set_order(0)
    for function in (registry.why_not, registry._usable):
        function.cache_clear()
    assert emulator.emulation_launches() > before


@pytest.fixture
def every_order(emulator):
    """A function that calls another with the threads and blocks in several orders and wants the same bits."""

    def check(function):
        first = None
        for order in range(4):  # as numbered, backwards, shuffled twice
            emulator.emulation_set_order(order)
            results = [t for t in function() if t is not None]
            first = first or results
            for a, b in zip(results, first, strict=True):
                assert torch.equal(a.nan_to_num(nan=7.0), b.nan_to_num(nan=7.0)), f"order {order}"

    return check


class TestEveryOperator(EveryOperatorChecks):
    backend, device, kernels = "cpu", "cpu", "cuda"


class TestArchWeights(ArchWeightsChecks):
    backend, device = "cpu", "cpu"
    test_no_layers = None  # launches nothing

    def test_any_order_of_threads(self, every_order):
        logits = torch.randn(3, 70, requires_grad=True)
        rng = torch.tensor([3, 5])

        def step():
            result = ops.arch_weights(logits, 0.7, boost=ops.Boost(), rng=rng, hard=False)
            return [*result, *torch.autograd.grad(result.weights.square().sum(), logits)]

        every_order(step)


class TestMixedSum(MixedSumChecks):
    backend, device = "cpu", "cpu"

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_any_order_of_threads(self, every_order, channels_last):
        xs = [torch.randn(2, 3, 21, 19).requires_grad_() for _ in range(3)]
        if channels_last:
            xs[1] = xs[1].detach().to(memory_format=torch.channels_last).requires_grad_()
        weights = torch.tensor([0.5, 0.0, 2.0], requires_grad=True)

        def step():
            y = ops.mixed_sum(xs, weights)
            return [y.detach(), *torch.autograd.grad(y.square().sum(), [weights, *xs])]

        every_order(step)


class TestMultiDepthwise(MultiDepthwiseChecks):
    backend, device = "cpu", "cpu"

    @pytest.mark.parametrize("own", [False, True])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_any_order_of_threads(self, every_order, own, stride):
        case = make_case((2, 17, 9, 10), [(3, 1), (5, 2), (9, 1)], own=own, stride=stride)
        case = case._replace(grads=[torch.randn_like(g) for g in case.grads])

        def step():
            ys, grads = run(ops.multi_depthwise, case)
            return [*ys, *grads.values()]

        every_order(step)

    @pytest.mark.parametrize("own", [False, True])
    def test_parts_of_the_gradient_add_up_to_it(self, own):
        case = make_case((3, 17, 9, 20), SUPERNET, own=own)
        arguments = backward_arguments(case)
        grad_xs, grad_params = multi_depthwise_cuda.backward(*arguments)
        again, parts = multi_depthwise_cuda.summands(*arguments)
        assert len(parts) > 1
        torch.testing.assert_close(parts.double().sum(0).float(), grad_params)
        assert all(map(torch.equal, again, grad_xs))


def backward_arguments(case):
    """Those of a backend's `backward`, for all gradients."""
    xs, weights, affine = case.tensors.values()
    branches = [(w.shape[-1], dilation) for w, dilation in zip(weights, case.options["dilations"], strict=True)]
    plan = DepthwisePlan(*map(tuple, zip(*branches, strict=True)), len(xs), 1, True, True)
    return case.grads, xs, pack(weights, affine, len(xs), torch.float32), plan, [True] * len(xs), True, True


class TestEmulation:
    """That the emulation finds faults."""

    @pytest.fixture
    def launch(self, emulator):
        emulator.faulty.restype = ctypes.c_char_p
        emulator.faulty.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
        x, y = torch.arange(64, dtype=torch.float32), torch.empty(64)

        def launch(name):
            error = emulator.faulty(name.encode(), x.data_ptr(), y.data_ptr(), 64)
            return y.clone(), error and error.decode()

        return launch

    def test_sound_kernel(self, launch, every_order):
        y, error = launch("barrier")
        assert error is None
        assert y.tolist() == list(range(63, -1, -1))
        every_order(lambda: [launch("barrier")[0]])

    def test_missing_barrier(self, launch, every_order):
        y, error = launch("no barrier")
        assert error is None
        assert y.isnan().any()
        with pytest.raises(AssertionError, match="order 1"):
            every_order(lambda: [launch("no barrier")[0]])

    @pytest.mark.parametrize("name", ["read after", "read before", "write after", "shared"])
    def test_out_of_bounds(self, launch, name):
        assert "AddressSanitizer" in launch(name)[1]

    def test_threads_at_different_barriers(self, launch):
        assert "not all threads of a block came to the same barrier" in launch("diverging")[1]
