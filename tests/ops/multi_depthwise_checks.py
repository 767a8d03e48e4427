"""What every GPU backend of `multi_depthwise` must compute, against the plain-PyTorch reference in float64.

A test module subclasses `MultiDepthwiseChecks` with a backend and a device.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops.reference.multi_depthwise import reference
from tests.ops.backend_checks import BackendChecks, few_examples
from tests.ops.depthwise_cases import OTHERS, SUPERNET, Case, cases, check, eighths, run

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


class MultiDepthwiseChecks(BackendChecks):
    def check(self, case: Case) -> None:
        check(ops.multi_depthwise, reference, case.map(lambda t: t.to(self.device)), self.backend)

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
        @settings(few_examples, max_examples=12)
        @given(cases(dtype, own, shapes=SHAPES))
        def any_case(case):
            self.check(case)

        any_case()

    @pytest.mark.parametrize("stride", [1, 2])
    def test_tile_that_shared_memory_cannot_hold(self, stride):
        self.check(make_case((1, 3, 9, 17), [(5, 20), (3, 1)], stride=stride))
        self.check(make_case((1, 3, 9, 17), [(33, 1)], stride=stride))

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("branch", [(3, 2**62 + 10**6), (3, 2000), (5, 9), (21, 1)])
    def test_taps_beyond_the_image(self, branch, stride):
        self.check(make_case((1, 3, 6, 9), [branch, (3, 1)], stride=stride))

    def test_more_taps_than_are_summed_up_at_once(self):
        self.check(make_case((1, 2, 6, 7), [(9, 1), (7, 1), (7, 2), (5, 1), (11, 1)]))
        self.check(make_case((1, 2, 6, 7), [(3, 1), (27, 1)], own=True))

    def test_most_branches(self):
        self.check(make_case((1, 3, 5, 4), [(3, 1)] * 32))
        self.check(make_case((1, 3, 5, 4), [(3, 1)] * 32, own=True))

    def test_more_tiles_than_slices(self):
        self.check(make_case((260, 1, 2, 9), [(3, 1)]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_unaligned_tensors(self, dtype):
        def shift(t):
            if t.shape != (1, 8, 5, 6):
                return t
            memory = torch.empty(t.numel() + 1, dtype=dtype, device=self.device)[1:]
            return memory.view(1, 5, 6, 8).permute(0, 3, 1, 2).copy_(t)

        self.check(make_case((1, 8, 5, 6), [(3, 1), (3, 2)], dtype=dtype).map(shift))

    @pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
    def test_wanted_gradients(self, wanted):
        case = make_case((1, 3, 6, 5), SUPERNET)
        need = {name: [want] * len(group) for want, (name, group) in zip(wanted, case.tensors.items(), strict=True)}
        self.check(case._replace(need=need, grads=[case.grads[0], None, *case.grads[2:]]))

    def test_nan_stays_in_reach(self):
        x = torch.ones(1, 2, 5, 5, device=self.device)
        x[0, 1, 2, 2] = torch.nan
        x[0, 1, 4, 4] = torch.inf
        weight = torch.ones(2, 1, 3, 3, device=self.device)
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1])
        (expected,) = reference(x, [weight], dilations=[1])
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())

    def test_weight_gradient_leaves_out_what_no_output_meets(self):
        x = torch.ones(1, 1, 4, 4, device=self.device)
        x[..., 3] = torch.inf  # the first column of the kernel never meets it
        weight = torch.ones(1, 1, 3, 3, device=self.device, requires_grad=True)
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1])
        (grad,) = torch.autograd.grad(y, weight, torch.ones_like(y))
        assert grad[..., 0].isfinite().all()
        assert grad[..., 1:].isinf().all()

    def test_empty_batch(self):
        x = torch.ones(0, 3, 4, 5, device=self.device, requires_grad=True)
        weight = torch.ones(3, 1, 3, 3, device=self.device, requires_grad=True)
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1], stride=2)
        y.sum().backward()
        assert y.shape == (0, 3, 2, 3)
        assert x.grad.shape == x.shape
        assert not weight.grad.any()

    def test_same_bits_every_time(self):
        case = make_case((3, 17, 9, 10), SUPERNET).map(lambda t: t.to(self.device))
        case = case._replace(grads=[torch.randn_like(g) for g in case.grads])
        first, again = (run(ops.multi_depthwise, case) for _ in range(2))
        for a, b in zip((*first[0], *first[1].values()), (*again[0], *again[1].values()), strict=True):
            assert torch.equal(a, b)
