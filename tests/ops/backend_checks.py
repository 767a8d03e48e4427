"""What every backend must compute, against the plain-PyTorch references.

A test module subclasses `ArchWeightsChecks` and `MixedSumChecks` with a backend and a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.reference.arch_weights import reference as arch_weights_reference
from asose_fast.ops.reference.mixed_sum import backward as mixed_sum_backward
from asose_fast.ops.reference.mixed_sum import reference as mixed_sum_reference
from tests.ops.raw_calls import call, operators_of, right_calls, tensors

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None, scale: float = 1.0, slack: float = 1.0
) -> None:
    """Equal within `slack` roundings of `dtype`, relative to the largest element and to `scale` at least."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    finite = expected[expected.isfinite()].abs().double()
    largest = max(scale, finite.max().item() if finite.numel() else 0.0)
    tolerance = TOLERANCE[dtype or expected.dtype] * slack * largest
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, equal_nan=True)


# One fixture serves all examples, because it only chooses the backend; several backends share a test, because examples
# are not stored; and an example may have to compile a kernel first.
few_examples = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], list[tuple[list[int], list[int], int]]]:
    """A shape, and for every input the order of its dimensions in memory, their steps, and its first element."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    steps = st.lists(st.integers(1, 2), min_size=len(shape), max_size=len(shape))
    order = st.permutations(range(len(shape)))
    return shape, draw(st.lists(st.tuples(order, steps, st.integers(0, 3)), min_size=1, max_size=5))


COMMON = {"separable_norm_fwd": 3, "stage_fwd": 5}
"""So many results of these operators are those of every backend; others it keeps for its own backward, or not."""


def common(name: str, results: object) -> list[Tensor]:
    return tensors(results[: COMMON[name]] if name in COMMON else results)


class BackendChecks:
    """Runs each test on one backend, with NaN in every output that was not written."""

    backend: str
    device: str

    @pytest.fixture(autouse=True)
    def _on_backend(self):
        torch.manual_seed(0)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        with ops.backend(self.backend):
            yield
        torch.use_deterministic_algorithms(False)


class EveryOperatorChecks(BackendChecks):
    """Of all operators that have the backend `kernels`: on right arguments they give what the reference does."""

    kernels: str
    slack: Mapping[torch.dtype, float] = MappingProxyType({})

    @pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
    def test_right_arguments_give_what_the_reference_does(self, dtype):
        names = [
            n for n, op in operators_of(self.kernels) if dtype in registry._implementation(op, self.kernels).DTYPES
        ]
        if not names:
            pytest.skip(f"no {self.kernels} kernel takes {dtype}")
        for name in names:
            arguments = {key: self.moved(value) for key, value in right_calls(dtype)[name].items()}
            with ops.backend("reference"):
                expected = common(name, call(name, arguments))
            for i, (a, b) in enumerate(zip(common(name, call(name, arguments)), expected, strict=True)):
                try:
                    close(a, b, dtype, slack=self.slack.get(dtype, 1.0))
                except AssertionError as error:
                    raise AssertionError(f"result {i} of {name}") from error

    def moved(self, value: object) -> object:
        if isinstance(value, list):
            return [self.moved(item) for item in value]
        return value.to(self.device) if isinstance(value, Tensor) else value


class ArchWeightsChecks(BackendChecks):
    def check(self, logits: Tensor, temperature: float = 0.7, **options) -> ops.ArchWeights:
        logits = logits.to(self.device).requires_grad_()
        if "noise" not in options:
            options["noise"] = torch.randn(logits.shape, dtype=torch.float64)
        options["noise"] = options["noise"].to(self.device)
        result = ops.arch_weights(logits, temperature, **options)
        expected = arch_weights_reference(logits, temperature, **options)
        assert torch.equal(result.index, expected.index)
        for name in ("weights", "entropy", "max_prob"):
            close(getattr(result, name), getattr(expected, name))
        grad = torch.randn_like(result.weights)
        actual_grad, expected_grad = (torch.autograd.grad(r.weights, logits, grad)[0] for r in (result, expected))
        close(actual_grad, expected_grad)
        return result

    @pytest.mark.parametrize("shape", [(1, 1), (3, 10), (2, 33), (1, 128)])
    @pytest.mark.parametrize("hard", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_matches_the_reference(self, shape, hard, dtype):
        self.check(torch.randn(shape, dtype=dtype), hard=hard)

    @pytest.mark.parametrize("hard", [False, True])
    def test_boost(self, hard):
        logits = 0.3 * torch.randn(6, 10)
        logits[0, 3] = 1.0  # skip leads
        logits[1, 5] = 4.0  # decided
        logits[2, 0] = 1.0  # none among the boosted
        quiet = torch.zeros(6, 10, dtype=torch.float64)
        boosted = self.check(logits, 1.0, hard=hard, boost=ops.Boost(), noise=quiet)
        plain = self.check(logits, 1.0, hard=hard, noise=quiet)
        assert torch.equal(boosted.weights[:2], plain.weights[:2])
        assert hard or not torch.equal(boosted.weights[2], plain.weights[2])
        assert torch.equal(boosted.entropy, plain.entropy)

    def test_first_of_equal_logits_wins(self):
        quiet = torch.zeros(2, 10, dtype=torch.float64)
        logits = torch.zeros(2, 10)
        logits[1, [2, 4, 6, 8]] = 1.0
        assert self.check(logits, noise=quiet).index.tolist() == [0, 2]
        boost = ops.Boost(top_k=3, amount=0.1, below=0.9, skip=-1, none=-1)
        weights = self.check(logits, hard=False, boost=boost, noise=quiet).weights
        assert (weights[1, [2, 4, 6]] > weights[1, 8]).all()
        assert (weights[0, :3] > weights[0, 3]).all()

    def test_boost_threshold_is_float64(self):
        # The largest probability is 0.4 rounded to float32, which lies above 0.4.
        p = torch.tensor(0.4, dtype=torch.float32).double()
        logits = torch.log(torch.stack([p, (1 - p) / 2, (1 - p) / 2]))[None]
        quiet = torch.zeros(1, 3, dtype=torch.float64)
        boost = ops.Boost(top_k=1, amount=0.1, below=0.4, skip=-1, none=-1)
        with_boost = self.check(logits, 1.0, hard=False, boost=boost, noise=quiet).weights
        assert torch.equal(with_boost, self.check(logits, 1.0, hard=False, noise=quiet).weights)

    def test_minus_infinity(self):
        logits = torch.randn(2, 5)
        logits[0, :3] = float("-inf")
        self.check(logits, hard=False, boost=ops.Boost(top_k=3, below=1.0, skip=-1, none=-1))

    @pytest.mark.parametrize("hard", [False, True])
    def test_nan_fills_its_row_alone(self, hard):
        logits = torch.randn(4, 10)
        logits[1, 0] = logits[2, 7] = float("nan")
        logits[3] = float("-inf")
        result = self.check(logits, hard=hard, boost=ops.Boost())
        assert result.weights.isnan().all(1).tolist() == [False, True, True, True]
        assert result.index[1:].tolist() == [0, 0, 0]

    def test_noise_is_that_of_every_backend(self):
        rng = torch.tensor([-(2**62) - 12345, 2**40 + 3], device=self.device)
        logits = torch.randn(4, 10, dtype=torch.float64, device=self.device)
        drawn = ops.arch_weights(logits, 0.5, hard=False, rng=rng)
        given = ops.arch_weights(logits, 0.5, hard=False, noise=ops.gumbel_noise(rng, 4, 10))
        close(drawn.weights, given.weights)

    def test_strided_arguments(self):
        noise = torch.randn(10, 3, dtype=torch.float64).t()
        self.check(torch.randn(10, 3).t(), noise=noise)

    @few_examples
    @given(st.data())
    def test_any_logits(self, data):
        layers, count = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
        row = st.lists(st.sampled_from([-30.0, -0.5, 0.0, 0.25, 1.0, 40.0]), min_size=count, max_size=count)
        logits = torch.tensor(data.draw(st.lists(row, min_size=layers, max_size=layers)))
        index = st.integers(-1, count - 1)
        boost = st.builds(ops.Boost, st.integers(1, count), st.sampled_from([0.1, 2.0]), st.floats(0, 1), index, index)
        quiet = torch.zeros(layers, count, dtype=torch.float64)
        self.check(logits, noise=quiet, hard=data.draw(st.booleans()), boost=data.draw(st.none() | boost))

    def test_no_layers(self):
        assert self.check(torch.randn(0, 4)).weights.shape == (0, 4)


class MixedSumChecks(BackendChecks):
    def check(self, xs: list[Tensor], weights: list[float] | Tensor, grad: Tensor | None = None) -> Tensor:
        dtype = xs[0].dtype
        acc = accumulation_dtype(dtype)
        xs = [x.detach().requires_grad_() for x in xs]
        weights = torch.as_tensor(weights, dtype=acc, device=self.device).requires_grad_()
        y = ops.mixed_sum(xs, weights)
        expected = mixed_sum_reference(xs, weights).detach()
        close(y, expected, scale=0.0)
        assert y.stride() == expected.stride()
        grad = torch.randn_like(y) if grad is None else grad
        grad_weights, *grad_xs = torch.autograd.grad(y, [weights, *xs], grad)
        need = [True] * len(xs)
        wide = [x.detach().double() for x in xs]
        exact_xs, exact_weights = mixed_sum_backward(grad.double(), wide, weights.detach().double(), need, True)
        close(grad_weights, exact_weights.to(acc), scale=max(1.0, y.numel() ** 0.5))
        for actual, exact in zip(grad_xs, exact_xs, strict=True):
            close(actual, exact.to(dtype), scale=0.0)
        return y

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device=self.device).to(dtype)

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("shape", [(1,), (2, 3, 5, 7), (1031,), (2, 1, 1, 1), ()])
    def test_matches_the_reference(self, shape, dtype):
        self.check([self.random(*shape, dtype=dtype) for _ in range(4)], [0.5, -1.5, 0.0, 2.0])

    @pytest.mark.parametrize("inputs", [1, 2, 33, 128])
    def test_any_number_of_inputs(self, inputs):
        self.check([self.random(2, 3, 4) for _ in range(inputs)], torch.randn(inputs))

    @pytest.mark.parametrize("inputs", [3, 40])
    def test_any_number_of_strided_inputs(self, inputs):
        self.check([self.random(4, 3, 2).permute(2, 1, 0) for _ in range(inputs)], torch.randn(inputs))

    @pytest.mark.parametrize("dtype", TOLERANCE)
    def test_channels_last(self, dtype):
        xs = [self.random(2, 5, 3, 3, dtype=dtype).to(memory_format=torch.channels_last) for _ in range(3)]
        assert self.check(xs, [0.2, 0.3, 0.5]).is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("dtype", TOLERANCE)
    def test_mixed_layouts(self, dtype):
        xs = [self.random(2, 5, 4, 3, dtype=dtype) for _ in range(3)]
        xs[1] = xs[1].to(memory_format=torch.channels_last)
        xs[2] = self.random(2, 5, 8, 6, dtype=dtype)[:, :, ::2, 1::2]
        self.check(xs, [0.2, 0.3, 0.5])
        self.check(xs[1:] + xs[:1], [0.2, 0.3, 0.5])

    def test_many_dimensions(self):
        xs = [self.random(2, 1, 3, 2, 1, 2, 3, 2), self.random(*[3] * 8)[:2, :1, :, ::2, :1, 1:, :, :2]]
        self.check(xs, [1.0, -1.0])

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("offset", [1, 3])
    def test_unaligned_views(self, dtype, offset):
        base = self.random(40, dtype=dtype)
        self.check([base[offset : offset + 33], base[:33], base[7:]], [0.7, 0.1, 0.2])

    @few_examples
    @given(layouts(), st.sampled_from(list(TOLERANCE)))
    def test_any_layout(self, layout, dtype):
        shape, inputs = layout
        xs = []
        for order, steps, offset in inputs:
            sizes = [shape[d] * steps[d] for d in order]
            count = torch.Size(sizes).numel()
            x = self.random(offset + count, dtype=dtype)[offset:].view(sizes)
            x = x.permute([order.index(d) for d in range(len(shape))])
            xs.append(x[tuple(slice(None, None, step) for step in steps)])
        self.check(xs, torch.randn(len(xs)))

    def test_expanded_gradient_and_input(self):
        xs = [self.random(2, 3, 4, 5), self.random(1, 3, 1, 1).expand(2, 3, 4, 5)]
        self.check(xs, [0.7, 0.3], grad=torch.ones((), device=self.device).expand(2, 3, 4, 5))

    def test_empty(self):
        self.check([self.random(0, 3), self.random(0, 3)], [0.7, 0.3])

    def test_zero_weight_hides_what_is_not_finite(self):
        xs = [self.random(5, 7), torch.full((5, 7), float("nan"), device=self.device)]
        weights = torch.tensor([1.0, 0.0], device=self.device)
        assert torch.equal(ops.mixed_sum(xs, weights), xs[0])

    def test_zero_weight_has_gradients(self):
        self.check([self.random(5, 7) for _ in range(3)], [0.0, 1.0, 0.0])

    def test_zero_weight_writes_zeros_under_an_infinite_gradient(self):
        xs = [self.random(5).requires_grad_() for _ in range(2)]
        y = ops.mixed_sum(xs, torch.tensor([0.0, 1.0], device=self.device))
        y.backward(torch.full((5,), float("inf"), device=self.device))
        assert torch.equal(xs[0].grad, torch.zeros_like(xs[0]))

    def test_gradients_that_nobody_wants(self):
        xs = [self.random(3, 4) for _ in range(3)]
        weights = torch.tensor([0.5, 0.2, 0.3], device=self.device)
        xs[1].requires_grad_()
        (grad,) = torch.autograd.grad(ops.mixed_sum(xs, weights).sum(), xs[1])
        close(grad, torch.full_like(grad, 0.2))
        xs[1].requires_grad_(False)
        weights.requires_grad_()
        (grad,) = torch.autograd.grad(ops.mixed_sum(xs, weights).sum(), weights)
        close(grad, torch.stack([x.sum() for x in xs]), scale=10.0)

    def test_same_bits_every_time(self):
        xs = [self.random(3, 5000) for _ in range(3)]
        weights = torch.randn(3, device=self.device).requires_grad_()
        grads = [torch.autograd.grad((ops.mixed_sum(xs, weights) ** 2).sum(), weights)[0] for _ in range(3)]
        assert torch.equal(grads[0], grads[1])
        assert torch.equal(grads[0], grads[2])
