"""The CUDA kernels on the CPU. Run by test_cuda_emulation.py in a process with AddressSanitizer.

The launchers, the bindings and the kernels are those of the GPU; CUDA itself is tests/cuda_emulation.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from asose_fast import _native, ops
from asose_fast.ops import registry
from asose_fast.ops.multi_depthwise import reference
from tests.ops.backend_checks import ArchWeightsChecks, MixedSumChecks, few_examples, given
from tests.ops.depthwise_cases import OTHERS, SUPERNET, Case, cases, check, eighths, run

PATH = Path(os.environ["ASOSE_CUDA_EMULATION"]) / "cuda.so"
EMULATED = ("arch_weights", "mixed_sum", "multi_depthwise")


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
    for function in (registry.why_not, registry._select):
        function.cache_clear()
    before = emulator.emulation_launches()
    yield
    emulator.emulation_set_order(0)
    for function in (registry.why_not, registry._select):
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


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SHAPES = st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 8, 16, 17, 24]), st.integers(1, 11), st.integers(1, 19))


def make_case(shape, branches, *, dtype=torch.float32, own=False, stride=1, affine=True, relu=True) -> Case:
    channels, inputs = shape[1], len(branches) if own else 1
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {
        "x": [eighths(shape, dtype) for _ in range(inputs)],
        "weight": [eighths((channels, 1, k, k), wide) for k, _ in branches],
        "affine": [eighths((inputs, channels) if own else (channels,), wide) for _ in range(2)] if affine else [],
    }
    out = (*shape[:2], *((s - 1) // stride + 1 for s in shape[2:]))
    options = {"dilations": [d for _, d in branches], "stride": stride, "relu": relu}
    need = {name: [True] * len(group) for name, group in tensors.items()}
    return Case(tensors, options, [eighths(out, dtype) for _ in branches], need, own)


class TestMultiDepthwise:
    def check(self, case: Case) -> None:
        check(ops.multi_depthwise, reference, case, "cpu")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("own", [False, True])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_supernet(self, dtype, own, stride):
        self.check(make_case((2, 24, 9, 18), SUPERNET, dtype=dtype, own=own, stride=stride))

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("branch", SUPERNET + OTHERS)
    def test_every_kernel(self, branch, stride):
        self.check(make_case((1, 5, 10, 11), [branch], stride=stride))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("own", [False, True])
    def test_any_case(self, dtype, own):
        @few_examples
        @given(cases(dtype, own, shapes=SHAPES))
        def any_case(case):
            self.check(case)

        any_case()

    @pytest.mark.parametrize("stride", [1, 2])
    def test_tile_that_shared_memory_cannot_hold(self, stride):
        self.check(make_case((1, 3, 9, 17), [(5, 20), (3, 1)], stride=stride))
        self.check(make_case((1, 3, 9, 17), [(33, 1)], stride=stride))

    def test_more_workers_than_a_block_has(self):
        self.check(make_case((1, 2, 6, 7), [(9, 1), (7, 1), (7, 2), (5, 1), (11, 1)]))
        self.check(make_case((1, 2, 6, 7), [(3, 1), (27, 1)], own=True))

    def test_most_branches(self):
        self.check(make_case((1, 3, 5, 4), [(3, 1)] * 32))
        self.check(make_case((1, 3, 5, 4), [(3, 1)] * 32, own=True))

    def test_more_tiles_than_slices(self):
        self.check(make_case((260, 1, 2, 9), [(3, 1)]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_unaligned_tensors(self, dtype):
        case = make_case((1, 8, 5, 6), [(3, 1), (3, 2)], dtype=dtype)

        def shifted(t):
            memory = torch.empty(t.numel() + 1, dtype=dtype)[1:]
            view = memory.view(1, 5, 6, 8).permute(0, 3, 1, 2)
            return view.copy_(t)

        tensors = {**case.tensors, "x": [shifted(t) for t in case.tensors["x"]]}
        self.check(case._replace(tensors=tensors, grads=[shifted(g) for g in case.grads]))

    @pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
    def test_wanted_gradients(self, wanted):
        case = make_case((1, 3, 6, 5), SUPERNET)
        need = {name: [want] * len(group) for want, (name, group) in zip(wanted, case.tensors.items(), strict=True)}
        self.check(case._replace(need=need, grads=[case.grads[0], None, *case.grads[2:]]))

    @pytest.mark.parametrize("own", [False, True])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_any_order_of_threads(self, every_order, own, stride):
        case = make_case((2, 17, 9, 10), [(3, 1), (5, 2), (9, 1)], own=own, stride=stride)
        case = case._replace(grads=[torch.randn_like(g) for g in case.grads])

        def step():
            with ops.backend("cpu"):
                ys, grads = run(ops.multi_depthwise, case)
            return [*ys, *grads.values()]

        every_order(step)

    def test_nan_stays_in_reach(self):
        x = torch.ones(1, 2, 5, 5)
        x[0, 1, 2, 2] = torch.nan
        x[0, 1, 4, 4] = torch.inf
        (y,) = ops.multi_depthwise(x, [torch.ones(2, 1, 3, 3)], dilations=[1])
        (expected,) = reference(x, [torch.ones(2, 1, 3, 3)], dilations=[1])
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())

    def test_weight_gradient_leaves_out_what_no_output_meets(self):
        x = torch.ones(1, 1, 4, 4)
        x[..., 3] = torch.inf  # the first column of the kernel never meets it
        weight = torch.ones(1, 1, 3, 3, requires_grad=True)
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1])
        (grad,) = torch.autograd.grad(y, weight, torch.ones_like(y))
        assert grad[..., 0].isfinite().all()
        assert grad[..., 1:].isinf().all()

    def test_empty_batch(self):
        x = torch.ones(0, 3, 4, 5, requires_grad=True)
        weight = torch.ones(3, 1, 3, 3, requires_grad=True)
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1], stride=2)
        y.sum().backward()
        assert y.shape == (0, 3, 2, 3)
        assert x.grad.shape == x.shape
        assert not weight.grad.any()


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
