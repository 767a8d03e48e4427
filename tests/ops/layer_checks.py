"""What every GPU backend of the mixed layer's operators must compute, against the float64 references.

A test module subclasses the classes with a backend and a device, as those of `backend_checks`.
"""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.mixed_norm_sum import mixed_norm_sum_bwd, mixed_norm_sum_fwd
from asose_fast.ops.pool_pair import pool_pair_bwd, pool_pair_fwd
from asose_fast.ops.reference.batch_statistics import forward as exact_statistics
from asose_fast.ops.reference.mixed_norm_sum import backward as exact_sum_backward
from asose_fast.ops.reference.mixed_norm_sum import forward as exact_sum
from asose_fast.ops.reference.mixed_norm_sum import reference as norm_sum_reference
from asose_fast.ops.reference.multi_depthwise import reference as depthwise_reference
from asose_fast.ops.reference.pointwise import reference as pointwise_reference
from asose_fast.ops.reference.pool_pair import backward as exact_pool_backward
from asose_fast.ops.reference.pool_pair import maxima as pooled_maxima
from asose_fast.ops.reference.pool_pair import reference as pool_reference
from asose_fast.ops.reference.separable import backward as exact_separable_backward
from asose_fast.ops.reference.separable import reference as separable_reference
from asose_fast.ops.separable import separable_bwd, separable_fwd
from asose_fast.space import CANDIDATES
from tests.helpers import make_batch, make_network, plain_loss
from tests.ops.backend_checks import BackendChecks
from tests.ops.depthwise_cases import SUPERNET, Case, check, eighths
from tests.ops.test_mixed_layer import Layer, assert_close, results
from tests.ops.test_pointwise import leaves
from tests.space.test_stacked import assert_close as candidates_close
from tests.space.test_stacked import pair
from tests.space.test_stacked import results as results_of

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 4e-3}
SHAPES = [(2, 3, 5, 6), (1, 66, 5, 7), (3, 1, 1, 2)]
"""Of one tile, of several with pixels and channels missing, and of fewer pixels than a kernel has taps."""
EVERY_SHAPE_AND_DTYPE = pytest.mark.parametrize(
    ("shape", "dtype"), [(s, DTYPES[0]) for s in SHAPES] + [(SHAPES[0], d) for d in DTYPES[1:]], ids=str
)
FORMATS = [torch.channels_last, torch.contiguous_format]


def close(got: Tensor, exact: Tensor, dtype: torch.dtype, what: str) -> None:
    assert got.shape == exact.shape, what
    assert got.isfinite().all(), what
    error = (got.double() - exact).abs().max() if got.numel() else 0
    assert error <= TOLERANCE[dtype] * (exact.abs().max() + 1), f"{what}: off by {error}"


class LayerChecks(BackendChecks):
    def random(self, *shape: int, dtype: torch.dtype = torch.float32, format=torch.channels_last) -> Tensor:
        x = torch.randn(shape, dtype=torch.float64).to(self.device, dtype)
        return x.contiguous(memory_format=format) if len(shape) == 4 else x


class BatchStatisticsChecks(LayerChecks):
    @EVERY_SHAPE_AND_DTYPE
    @pytest.mark.parametrize("format", FORMATS)
    def test_matches_the_reference(self, dtype, format, shape):
        zs = [self.random(*shape, dtype=dtype, format=format) + k for k in range(3)]
        for got, exact in zip(batch_statistics(zs), exact_statistics(zs), strict=True):
            assert got.dtype == torch.float64
            close(got, exact, torch.float32, "statistics")

    def test_a_large_mean_costs_no_accuracy(self):
        z = self.random(4, 40, 11, 9) + 1e4
        (mean, var), (exact_mean, exact_var) = batch_statistics([z]), exact_statistics([z])
        torch.testing.assert_close(mean, exact_mean, rtol=1e-10, atol=0)
        torch.testing.assert_close(var, exact_var, rtol=1e-5, atol=0)

    def test_an_outlier_at_the_start_costs_no_accuracy(self):
        z = self.random(4, 40, 11, 9)
        z[0, :, 0, 0] = 300.0
        (_, var), (_, exact) = batch_statistics([z]), exact_statistics([z])
        torch.testing.assert_close(var, exact, rtol=1e-5, atol=0)

    def test_no_values(self):
        assert torch.stack(batch_statistics([self.random(0, 3, 4, 4)])).isnan().all()


def max_places(x):
    """The places of the maxima of 3x3 windows of stride 1, by PyTorch."""
    height, width = x.shape[2:]
    wide = x.double()
    _, found = F.max_pool2d(wide, 3, 1, 1, return_indices=True)
    rows = found // width - torch.arange(height, device=x.device)[:, None] + 1
    columns = found % width - torch.arange(width, device=x.device) + 1
    return (rows * 3 + columns).to(torch.uint8)


class MixedNormSumChecks(LayerChecks):
    branches, plain = 3, 2

    def arguments(self, shape, dtype, format, gamma=True, beta=True):
        xs = [self.random(*shape, dtype=dtype, format=format) + 5 for _ in range(self.branches + self.plain)]
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        weights = torch.tensor([0.5, -1.5, 0.0, 2.0, 0.0], dtype=acc, device=self.device)
        parameters = [self.random(self.branches, shape[1], dtype=acc) if use else None for use in (gamma, beta)]
        mean, var = exact_statistics(xs[: self.branches])
        return xs, weights, *parameters, mean, torch.rsqrt(var + 1e-5)

    @EVERY_SHAPE_AND_DTYPE
    @pytest.mark.parametrize(("format", "gamma", "beta"), [(FORMATS[0], True, True), (FORMATS[1], False, False)])
    def test_forward(self, dtype, format, shape, gamma, beta):
        arguments = self.arguments(shape, dtype, format, gamma, beta)
        y = mixed_norm_sum_fwd(*arguments, None, 0)
        exact = exact_sum([x.double() for x in arguments[0]], *arguments[1:])
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=format)
        close(y, exact, dtype, "y")

    @EVERY_SHAPE_AND_DTYPE
    @pytest.mark.parametrize(
        ("format", "batch", "read", "need_x", "need_sums"),
        [
            (FORMATS[0], [True] * 3, [True] * 5, [True] * 5, True),
            (
                FORMATS[1],
                [False, True, False],
                [False, True, True, False, True],
                [True, True, False, False, True],
                True,
            ),
            (FORMATS[0], [False] * 3, [False] * 5, [True] * 5, False),
            (FORMATS[1], [True, True, False], [False] * 5, [False] * 5, True),
        ],
    )
    def test_backward(self, dtype, format, shape, batch, read, need_x, need_sums):
        xs, weights, gamma, beta, mean, rstd = self.arguments(shape, dtype, format)
        grad = self.random(*shape, dtype=dtype)
        saved = [x for x, is_read in zip(xs, read, strict=True) if is_read]
        need_weights = need_sums and any(read)
        flags = (batch, read, need_x, need_weights, need_sums, format == torch.channels_last)
        rest = (weights, gamma, beta, mean, rstd, *flags)
        got_xs, got_weights, got_sums, got_tables = mixed_norm_sum_bwd(grad, saved, *rest, None, 0)
        exact_xs, exact_weights, exact_sums, exact_tables = exact_sum_backward(
            grad.double(), [x.double() for x in saved], *rest
        )
        for got, exact in zip(got_xs, exact_xs, strict=True):
            assert got.dtype == dtype
            assert got.is_contiguous(memory_format=format)
            close(got, exact, dtype, "gradient of x")
        sums_in = torch.float64 if dtype == torch.float64 else torch.float32
        assert got_sums.dtype == torch.float64
        assert got_weights.dtype == weights.dtype
        assert got_weights.shape == ((5,) if need_weights else (0,))
        for k, is_read in enumerate(read if need_weights else ()):
            if is_read:
                close(got_weights[k], exact_weights[k], sums_in, "gradient of a weight")
        if exact_sums.numel():
            close(got_sums, exact_sums, sums_in, "sums")
        for k, is_read in enumerate(read):
            if is_read or (k < 3 and not batch[k]):
                close(got_tables[k], exact_tables[k], sums_in, "tables")

    def test_a_weight_of_zero_keeps_out_what_is_not_finite(self):
        xs, *rest = self.arguments((2, 3, 5, 4), torch.float32, torch.channels_last)
        expected = mixed_norm_sum_fwd(xs, *rest, None, 0)
        xs[2].fill_(torch.nan)
        xs[4].fill_(torch.inf)
        weights, gamma, beta, mean, rstd = rest
        rstd[2] = torch.nan
        assert torch.equal(mixed_norm_sum_fwd(xs, *rest, None, 0), expected)
        grad = self.random(2, 3, 5, 4)
        grads, _, sums, tables = mixed_norm_sum_bwd(
            grad, xs, weights, gamma, beta, mean, rstd, [True] * 3, [True] * 5, [True] * 5, True, True, True, None, 0
        )
        assert all(g.isfinite().all() for g in grads)
        assert not any(grads[k].any() for k in (2, 4))
        assert not tables[[2, 4]].any()
        assert sums[3].isnan().all()

    @EVERY_SHAPE_AND_DTYPE
    @pytest.mark.parametrize("format", FORMATS)
    def test_maxima_are_read_at_their_places(self, dtype, format, shape):
        xs, weights, *tables = self.arguments(shape, dtype, format)
        x = xs[-1]
        grad = self.random(*shape, dtype=dtype, format=format)
        places = max_places(x)
        flags = [True] * 3, [True] * 5, [True, False, True, False, True], True, True, format == torch.channels_last

        def results(pooled, z, places):
            terms = [*xs[:pooled], z, *xs[pooled + 1 :]]
            y = mixed_norm_sum_fwd(terms, weights, *tables, places, pooled)
            return [y, *mixed_norm_sum_bwd(grad, terms, weights, *tables, *flags, places, pooled)[1:]]

        for pooled in (1, 3):
            expected = results(pooled, pool_reference(x)[1].contiguous(memory_format=format), None)
            for got, exact in zip(results(pooled, x, places), expected, strict=True):
                assert torch.equal(got, exact)

    def test_the_public_function_matches_the_modules(self):
        norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(5), torch.nn.BatchNorm2d(5, affine=False, eps=0.1)])
        norms[1].eval()
        norms = norms.to(self.device)
        exact_norms = copy.deepcopy(norms).double()
        leaves = [self.random(2, 5, 4, 3).requires_grad_() for _ in range(3)] + [self.random(2).requires_grad_()]
        exact = [t.detach().double().requires_grad_() for t in leaves]
        grad = self.random(2, 5, 4, 3)
        y = ops.mixed_norm_sum(leaves[:2], leaves[3], list(norms), plain=leaves[2:3])
        expected = norm_sum_reference(exact[:2], exact[3], list(exact_norms), exact[2:3])
        close(y, expected, torch.float32, "y")
        y.backward(grad)
        expected.backward(grad.double())
        for a, b in zip([*leaves, *norms.parameters()], [*exact, *exact_norms.parameters()], strict=True):
            close(a.grad, b.grad, torch.float32, "gradient")
        for a, b in zip(norms.buffers(), exact_norms.buffers(), strict=True):
            close(a, b, torch.float32, "running statistics")


class PoolPairChecks(LayerChecks):
    @EVERY_SHAPE_AND_DTYPE
    @pytest.mark.parametrize("stride", [1, 2])
    def test_matches_the_reference(self, dtype, stride, shape):
        x = self.random(*shape, dtype=dtype)
        x[:, :1] = x[:, :1].round()  # many equal maxima
        x = x.requires_grad_()
        wide = x.detach().double().requires_grad_()
        got, exact = ops.pool_pair(x, stride=stride), pool_reference(wide, stride=stride)
        for a, b in zip(got, exact, strict=True):
            assert a.dtype == dtype
            assert a.is_contiguous(memory_format=torch.channels_last)
            close(a, b, dtype, "pooled")
        grads = [self.random(*got[0].shape, dtype=dtype) for _ in range(2)]
        for used in ([0, 1], [0], [1]) if shape[1] < 8 else ([0, 1],):
            (a,), (b,) = (
                torch.autograd.grad(
                    [ys[i] for i in used], x, [grads[i].to(ys[i].dtype) for i in used], retain_graph=True
                )
                for ys, x in ((got, x), (exact, wide))
            )
            close(a, b, dtype, "gradient of x")

    @pytest.mark.parametrize("stride", [1, 2])
    def test_values_that_are_not_finite(self, stride):
        x = self.random(2, 3, 6, 7)
        for value, channel in ((torch.nan, 0), (torch.inf, 1), (-torch.inf, 2)):
            x[:, channel] = x[:, channel].where(torch.rand(6, 7, device=self.device) < 0.6, value)
        x = x.requires_grad_()
        got, exact = ops.pool_pair(x, stride=stride), pool_reference(x, stride=stride)
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)
        *_, active = pool_pair_fwd(x.detach(), stride, True, True, True, True)
        torch.testing.assert_close(active, x.relu().detach(), equal_nan=True)
        grads = [self.random(*got[0].shape) for _ in range(2)]
        torch.testing.assert_close(torch.autograd.grad(got, x, grads), torch.autograd.grad(exact, x, grads))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("stride", [1, 2])
    def test_norms_and_terms_in_backward(self, dtype, stride):
        x, *terms = (self.random(2, 5, 5, 6, dtype=dtype) for _ in range(3))
        avg, max = pool_reference(x, stride=stride)
        g = self.random(*avg.shape, dtype=dtype)
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        factors, tables = self.random(2, dtype=acc), self.random(2, 4, 5, dtype=acc)
        for zs in ([avg, max], [avg, None], [None, max]):
            got = pool_pair_bwd([g, g], zs, tables, x, stride, terms, factors, 0, None)
            exact = exact_pool_backward(
                [g.double()] * 2, [None if t is None else t.double() for t in zs], tables.double(), x.double(),
                stride, [t.double() for t in terms], factors.double(), 0, None,
            )  # fmt: skip
            close(got, exact, dtype, "gradient of x")

    @EVERY_SHAPE_AND_DTYPE
    @pytest.mark.parametrize(("stride", "most"), [(1, 2), (2, 1024)])
    def test_statistics_and_places_come_with_the_poolings(self, dtype, stride, most, shape, monkeypatch):
        kernels = registry._implementation("pool_pair", self.backend)
        monkeypatch.setattr(kernels, "_TASKS", most)  # of several tiles each
        x = self.random(*shape, dtype=dtype) + 1
        x[:, :1] = x[:, :1].round()  # many equal maxima
        avg, max, mean, var, places, active = pool_pair_fwd(x, stride, True, True, True, True)
        assert torch.equal(active, x.relu())
        if stride == 1 and not max.numel():
            max = pooled_maxima(x, places)
            assert torch.equal(max, pool_reference(x, stride=1)[1])
        for got, exact in zip((avg, max), pool_reference(x.double(), stride=stride), strict=True):
            close(got, exact, dtype, "pooled")
        for got, exact in zip((mean, var), exact_statistics([avg, max]), strict=True):
            close(got, exact, torch.float64 if dtype == torch.float64 else torch.float32, "statistics")
        call = [avg, max], [None, None], x.new_empty(0), x, stride, [], x.new_empty(0), 0
        assert torch.equal(pool_pair_bwd(*call, places), pool_pair_bwd(*call, None))

    @pytest.mark.parametrize("given", [0, 1])
    def test_terms_without_a_factor_count_once(self, given):
        x, *terms = (self.random(2, 3, 5, 4) for _ in range(3))
        factors = self.random(given)
        kernels = registry._implementation("pool_pair", self.backend)  # to which the operator gives a CPU's in full
        got = kernels.backward([None] * 2, [None] * 2, x.new_empty(0), x, 1, terms, factors, 0, None)
        close(got, sum(f * t.double() for f, t in zip([*factors, 1, 1], terms, strict=False)), x.dtype, "gradient of x")

    @EVERY_SHAPE_AND_DTYPE
    def test_the_last_terms_are_handed_back_through_a_relu(self, dtype, shape):
        x, *terms = (self.random(*shape, dtype=dtype) for _ in range(4))
        x[:, :, :, :1] = 0
        call = [None] * 2, [None] * 2, x.new_empty(0), x, 1, terms, self.random(1, dtype=torch.float32)
        exact = exact_pool_backward(*call[:3], x.double(), 1, [t.double() for t in terms], call[-1].double(), 2, None)
        close(pool_pair_bwd(*call, 2, None), exact, dtype, "gradient of x")

    def test_a_table_of_zeros_keeps_out_what_is_not_finite(self):
        x = self.random(2, 3, 5, 4)
        bad = torch.full_like(x, torch.nan)
        tables = torch.zeros(2, 4, 3, device=self.device)
        none = torch.zeros(0, device=self.device)
        assert not pool_pair_bwd([x, bad], [bad, bad], tables, x, 1, [], none, 0, None).any()


def make_case(checks, shape, branches, dtype, *, own, stride, affine, relu=True, absent=(), pointwise=False) -> Case:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    channels, inputs = shape[1], len(branches) if own else 1

    def values(*shape, dtype=wide):
        return eighths(shape, dtype).to(checks.device)

    tensors = {
        "x": [values(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last) for _ in range(inputs)],
        "weight": [values(channels, 1, k, k) for k, _ in branches],
    }
    if pointwise:
        tensors["pointwise"] = [values(channels, channels, 1, 1) for _ in branches]
    tensors["affine"] = [values(*((inputs, channels) if own else (channels,))) for _ in range(2 * affine)]
    out = (*shape[:2], *((s - 1) // stride + 1 for s in shape[2:]))
    grads = [None if b in absent else values(*out, dtype=dtype) for b in range(len(branches))]
    options = {"dilations": [d for _, d in branches], "stride": stride, "relu": relu}
    return Case(tensors, options, grads, {name: [True] * len(group) for name, group in tensors.items()}, own)


class DepthwiseChecks(LayerChecks):
    pointwise = False

    def check(self, *arguments, **options) -> None:
        case = make_case(self, *arguments, pointwise=self.pointwise, **options)
        # Depthwise outputs are rounded before the pointwise convolution reads them.
        check(self.function, self.reference, case, self.backend, slack=3 if self.pointwise else 1)

    @EVERY_SHAPE_AND_DTYPE
    def test_any_shape(self, shape, dtype):
        self.check(shape, [(1, 1), (3, 2)], dtype, own=dtype == torch.bfloat16, stride=1, affine=True)

    @pytest.mark.parametrize("own", [False, True])
    def test_stride(self, own):
        self.check((2, 3, 5, 6), [(1, 1), (3, 2)], torch.float32, own=own, stride=2, affine=own)

    @pytest.mark.parametrize("own", [False, True])
    def test_only_what_is_needed(self, own):
        branches, options = [(3, 1), (1, 1), (3, 2)], {"own": own, "stride": 1, "affine": True}
        names = ["x", "weight", "affine"] + ["pointwise"] * self.pointwise
        for name in names:
            case = make_case(self, (2, 3, 4, 5), branches, torch.float64, **options, pointwise=self.pointwise)
            need = {other: [other == name] * len(group) for other, group in case.tensors.items()}
            check(self.function, self.reference, case._replace(need=need), self.backend)
        self.check((2, 3, 4, 5), branches, torch.float64, **options, absent=(1,))
        self.check((2, 3, 4, 5), branches, torch.float64, **options, absent=(0, 2), relu=False)

    def test_relu_keeps_nan(self):
        x = torch.ones(1, 2, 5, 5, device=self.device)
        x[0, 1, 2, 2] = torch.nan
        weights = [[torch.ones(2, 1, 3, 3)], [torch.eye(2)[:, :, None, None]]][: 1 + self.pointwise]
        (y,) = self.function(x, *([w.to(self.device) for w in group] for group in weights), dilations=[1])
        assert y[0, 1, 1:4, 1:4].isnan().all()
        assert self.pointwise or y[0, 0].isfinite().all()

    def test_empty_batch(self):
        x, weight = (torch.ones(s, device=self.device, requires_grad=True) for s in ((0, 3, 4, 5), (3, 1, 3, 3)))
        pointwise = [torch.ones(3, 3, 1, 1, device=self.device, requires_grad=True)] * self.pointwise
        (y,) = self.function(x, [weight], *[pointwise] * self.pointwise, dilations=[1], stride=2)
        y.sum().backward()
        assert y.shape == (0, 3, 2, 3)
        assert x.grad.shape == x.shape
        assert not any(t.grad.any() for t in (weight, *pointwise))

    def test_the_same_bits_every_time(self):
        case = make_case(
            self, (2, 34, 5, 4), [(3, 1), (1, 1)], torch.float32, own=False, stride=1, affine=True,
            pointwise=self.pointwise,
        )  # fmt: skip
        results = []
        for _ in range(2):
            xs, *weights, affine = ([t.detach().requires_grad_() for t in group] for group in case.tensors.values())
            options = case.options | dict(zip(("scale", "shift"), affine, strict=True))
            ys = self.function(xs[0], *weights, **options)
            leaves = [*xs, *(t for group in weights for t in group), *affine]
            results.append([*ys, *torch.autograd.grad(ys, leaves, case.grads)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class MultiDepthwiseChecks(DepthwiseChecks):
    function, reference = staticmethod(ops.multi_depthwise), staticmethod(depthwise_reference)

    @pytest.mark.parametrize(("stride", "own"), [(2, False), (1, True)])
    def test_the_supernets_branches(self, stride, own):
        self.check((1, 2, 7, 6), SUPERNET, torch.float32, own=own, stride=stride, affine=own)

    def test_other_kernels(self):
        self.check((1, 2, 5, 6), [(1, 1), (3, 3), (9, 1), (7, 2)], torch.float64, own=False, stride=1, affine=False)


class SeparableChecks(DepthwiseChecks):
    function, reference, pointwise = staticmethod(ops.separable), staticmethod(separable_reference), True

    def arguments(self, dtype, own, shape=(2, 5, 6, 7)):
        kernels, dilations = (3, 1, 5), (1, 1, 2)
        plan = DepthwisePlan(kernels, dilations, 3 if own else 1, 1, True, True)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        xs = [eighths(shape, dtype).to(self.device) for _ in range(plan.inputs)]
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
        params = eighths((sum(plan.rows), shape[1]), wide).to(self.device)
        return xs, params, eighths((3, shape[1], shape[1]), wide).to(self.device), plan

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_statistics_come_with_the_outputs(self, dtype):
        xs, params, pointwise, plan = self.arguments(dtype, own=False)
        zs, *found = separable_fwd(xs, params, pointwise, *plan, True)
        for got, exact in zip(found, exact_statistics(zs), strict=True):
            close(got, exact, torch.float32, "statistics")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("own", [False, True])
    @pytest.mark.parametrize("absent", [(), (1,)])
    def test_backward_applies_that_of_norms(self, dtype, own, absent):
        xs, params, pointwise, plan = self.arguments(dtype, own)
        grads, zs = ([self.random(*xs[0].shape, dtype=dtype) for _ in range(3)] for _ in range(2))
        zs[2] = None
        for b in absent:
            grads[b] = zs[b] = None
        tables = self.random(3, 4, 5, dtype=torch.float64)
        need = ([True] * len(xs), True, True, True)
        got = separable_bwd(grads, zs, tables, xs, params, pointwise, *plan, *need)
        wide = [[None if t is None else t.double() for t in group] for group in (grads, zs, xs)]
        exact = exact_separable_backward(*wide[:2], tables, wide[2], params.double(), pointwise.double(), plan, *need)
        for a, b in zip([*got[0], *got[1:]], [*exact[0], *exact[1:]], strict=True):
            close(a, b, dtype, "gradient")

    def test_more_pixels_than_a_chunk(self):
        self.check((1, 3, 43, 29), [(1, 1)], torch.float64, own=False, stride=1, affine=False)


class PointwiseChecks(LayerChecks):
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("shape", "outputs", "stride"),
        [((2, 3, 5, 6), (4,), 1), ((2, 70, 5, 7), (66, 9), 2), ((1, 17, 1, 2), (1, 33), 2), ((3, 8, 3, 3), (5,), 2)],
    )
    def test_matches_the_reference(self, shape, outputs, stride, dtype):
        x, *weights = leaves(shape, outputs, dtype)
        tensors = [t.detach().to(self.device).requires_grad_() for t in (x, *weights)]
        wide = [t.detach().double().requires_grad_() for t in tensors]
        z, exact = ops.pointwise(tensors[0], tensors[1:], stride=stride), pointwise_reference(wide[0], wide[1:], stride)
        grad = self.random(*z.shape, dtype=dtype)
        close(z, exact, dtype, "z")
        found, expected = torch.autograd.grad(z, tensors, grad), torch.autograd.grad(exact, wide, grad.double())
        for a, b in zip(found, expected, strict=True):
            close(a, b, dtype, "gradient")

    def test_no_images(self):
        x, weight = torch.ones(0, 3, 4, 5), torch.ones(2, 3, 1, 1)
        x, weight = (t.to(self.device).requires_grad_() for t in (x, weight))
        ops.pointwise(x, [weight]).sum().backward()
        assert x.grad.shape == x.shape
        assert not weight.grad.any()

    def test_nan_stays(self):
        x = torch.full((1, 2, 3, 3), torch.nan, device=self.device, requires_grad=True)
        weight = torch.ones(1, 2, 1, 1, device=self.device)
        z = ops.pointwise(x, [weight], stride=2)
        z.sum().backward()
        assert z.isnan().all()
        assert torch.equal(x.grad[0, 0], torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 0, 1]], device=self.device))


class MixedLayerChecks(LayerChecks):
    """A whole layer and a whole network, as on a GPU: the host does not look at the weights."""

    @pytest.fixture(autouse=True)
    def _weights_are_not_seen(self, monkeypatch):
        monkeypatch.setattr(importlib.import_module("asose_fast.ops.mixed_layer.backward"), "_seen", lambda _: None)

    @pytest.mark.parametrize(
        ("lengths", "stride", "kinds", "options"),
        [
            ((2, 1), 1, ("affine", "plain"), {"shortcut": True}),
            ((2, 2), 2, ("affine", "eval"), {"recompute": True}),
            ((2, 1), 1, ("plain",), {"tracked": [True, False, False, True]}),
            ((), 1, ("affine",), {"shortcut": True}),
            ((1,), 2, ("affine",), {"dense": 1}),
        ],
        ids=str,
    )
    def test_matches_the_modules(self, lengths, stride, kinds, options):
        dense = options.pop("dense", 0)
        layer = Layer(3, stride, lengths, kinds=kinds, convolutions=[(3, 1), (1, 1), (3, 2)], dense=dense)
        layer = layer.to(self.device)
        values, grad = layer.values((2, 3, 5, 4), plain=1, shortcut=options.get("shortcut", False))
        values["weights"][-1] = 0
        values, grad = {name: t.to(self.device) for name, t in values.items()}, grad.to(self.device)
        exact = {name: option for name, option in options.items() if name != "recompute"}
        expected = results(copy.deepcopy(layer), values, grad, modules=True, **exact)
        assert_close(results(layer, values, grad, **options), expected)

    @pytest.mark.parametrize("broken", ["chains.0.0.0.weight", "chains.0.1.1.weight", "zs.0"])
    def test_a_weight_of_zero_keeps_out_what_is_not_finite(self, broken):
        layer = Layer(3, 1, (2, 1), convolutions=[(3, 1), (1, 1)]).to(self.device)
        values, grad = layer.values((2, 3, 3, 4))
        values, grad = {name: t.to(self.device) for name, t in values.items()}, grad.to(self.device)
        branch = -1 if broken == "zs.0" else 0
        values["weights"][branch] = 0
        expected = results(layer, values, grad)
        (values | dict(layer.named_parameters()))[broken].detach().fill_(torch.nan)
        got = results(layer, values, grad)
        assert got["dweights"][branch].isnan()
        for found in (got, expected):
            found["dweights"][branch] = 0
        assert_close(*({n: t for n, t in found.items() if n[0] in "yd"} for found in (got, expected)))

    @pytest.mark.parametrize(("stride", "index"), [(2, None), (1, 4)])
    def test_a_mixed_operation_matches_its_candidates(self, stride, index):
        plain, stacked = (m.to(self.device) for m in pair(tuple(CANDIDATES), 3, stride, torch.float64))
        k = len(CANDIDATES)
        weights = torch.rand(k).double() if index is None else torch.eye(k).double()[index]
        x, weights = self.random(2, 3, 4, 3, dtype=torch.float64), weights.to(self.device)
        assert [(n, t.shape) for n, t in plain.state_dict().items()] == [
            (n, t.shape) for n, t in stacked.state_dict().items()
        ]
        candidates_close(results_of(stacked, x, weights, index, 0.3), results_of(plain, x, weights, index, 0.3), 1e-10)

    def test_autocast_computes_in_bfloat16_and_keeps_parameters_and_statistics(self):
        plain, stacked = (m.to(self.device) for m in pair(("sep_conv_3x3", "max_pool_3x3"), 4, 1, torch.float32))
        x, weights = self.random(3, 4, 5, 6, dtype=torch.bfloat16), torch.rand(2).to(self.device)
        twin = copy.deepcopy(stacked)
        expected = results_of(plain.double(), x.double(), weights.double())
        with torch.autocast(self.device, torch.bfloat16):
            got = results_of(stacked, x, weights)
            wide = twin(x.float(), weights)
        assert got["y"].dtype == torch.bfloat16
        assert wide.dtype == torch.float32
        assert torch.equal(wide, wide.bfloat16().float())
        for name, value in expected.items():
            if name not in ("y", "dx"):
                assert got[name].dtype in (torch.float32, torch.int64), name
            error = (got[name].double() - value).abs().max() / value.abs().max().clamp_min(1)
            assert error <= 0.05, f"{name}: off by {error}"

    @pytest.mark.parametrize("kind", ["soft", "hard", "sampled"])
    def test_a_network_matches_its_modules(self, kind):
        names = ("none", "avg_pool_3x3", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
        network = make_network(names, depth=2, channels=3).double().to(self.device)
        for block in network.evolvable_blocks():
            block.mixed.fused = True
        plain = copy.deepcopy(network)
        x, y = (t.to(self.device) for t in make_batch(3, 6, dtype=torch.float64))
        path = {"soft": None, "hard": [4, 2], "sampled": [5, 4]}[kind]
        weights = torch.rand(2, 6).double() if path is None else torch.eye(6).double()[path]
        weights = weights.to(self.device).requires_grad_()
        loss = torch.nn.functional.cross_entropy(network(x, None if kind == "sampled" else weights, path), y)
        expected = plain_loss(plain, x, y, weights)
        torch.testing.assert_close(loss, expected)
        leaves = [[*n.parameters()] + [weights] * (kind != "sampled") for n in (network, plain)]
        got, exact = (
            torch.autograd.grad(total, some, allow_unused=True)
            for total, some in zip((loss, expected), leaves, strict=True)
        )
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b, rtol=1e-9, atol=1e-10)
        if kind != "sampled":  # the candidates that are not sampled are not run
            for (name, a), b in zip(network.named_buffers(), plain.buffers(), strict=True):
                torch.testing.assert_close(a, b, msg=name)
