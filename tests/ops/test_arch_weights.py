"""arch_weights: every backend of this machine against the float64 reference, gradients, and refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.reference.arch_weights import reference

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("arch_weights", b, "cpu")]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}

logit = st.one_of(
    st.floats(-8, 8), st.sampled_from([0.0, 1.0, -1.0, 1e-30, -1e-30, 80.0, -80.0, 1e30, -1e30, -math.inf])
)


@st.composite
def tables(draw):
    layers, count = draw(st.integers(0, 5)), draw(st.integers(1, 14))
    rows = [[draw(logit) for _ in range(count)] for _ in range(layers)]
    table = torch.tensor(rows, dtype=torch.float64).reshape(layers, count)
    table[table.isneginf().all(1)] = 0.0
    return table


@st.composite
def boosts(draw, count):
    if draw(st.booleans()):
        return None
    index = st.integers(-1, count - 1)
    return ops.Boost(
        draw(st.integers(1, count)), draw(st.floats(-2, 2)), draw(st.floats(0, 1)), draw(index), draw(index)
    )


def test_the_compiled_backend_is_tested():
    assert "cpu" in BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_matches_the_float64_reference(backend, dtype, data):
    logits = data.draw(tables()).to(dtype)
    logits[logits.isinf() & (logits > 0)] = torch.finfo(dtype).max / 4
    boost = data.draw(boosts(logits.shape[1]))
    hard = data.draw(st.booleans())
    temperature = data.draw(st.floats(0.05, 5.0))
    noise = ops.gumbel_noise(torch.tensor([data.draw(st.integers(0, 99)), 0]), *logits.shape)
    if data.draw(st.booleans()):
        noise = torch.zeros_like(noise)  # ties among equal logits
    grad = torch.randn(logits.shape, dtype=torch.float64)

    exact = logits.double().clone().requires_grad_()
    expected = reference(exact, temperature, hard=hard, boost=boost, noise=noise)
    leaf = logits.clone().requires_grad_()
    with ops.backend(backend):
        got = ops.arch_weights(leaf, temperature, hard=hard, boost=boost, noise=noise)
        got.weights.backward(grad.to(dtype))
    expected.weights.backward(grad.to(dtype).double())

    tolerance = TOLERANCE[dtype]
    assert torch.equal(got.index, expected.index)
    for name in ("weights", "entropy", "max_prob"):
        value = getattr(got, name)
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), getattr(expected, name), atol=tolerance, rtol=tolerance)
    scale = tolerance * 10 / temperature
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=scale, rtol=scale)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hard_weights_are_one_hot_and_carry_the_soft_gradient(backend):
    logits, noise, grad = torch.randn(6, 10), torch.randn(6, 10), torch.randn(6, 10)
    gradients = []
    with ops.backend(backend):
        for hard in (True, False):
            leaf = logits.clone().requires_grad_()
            sampled = ops.arch_weights(leaf, 0.7, hard=hard, boost=ops.Boost(), noise=noise)
            sampled.weights.backward(grad)
            gradients.append(leaf.grad)
            if hard:
                assert torch.equal(sampled.weights.argmax(1), sampled.index)
                assert torch.equal(sampled.weights.sort(1).values[:, -2:], torch.tensor([[0.0, 1.0]]).expand(6, 2))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boost_by_hand(backend):
    """Leading op is no skip and max p < 0.4: the top 3 gain 0.5, except none, which is not replaced by a fourth."""
    undecided = [0.9, 1.0, 0.8, 0.0, 0.7]  # top 3: ops 1, 0 (none), 2
    skip_leads = [0.0, 0.1, 0.2, 0.3, 0.0]
    decided = [0.0, 9.0, 0.0, 0.0, 0.0]
    logits = torch.tensor([undecided, skip_leads, decided])
    zero = torch.zeros_like(logits)
    with ops.backend(backend):
        got = ops.arch_weights(logits, 1.0, hard=False, boost=ops.Boost(), noise=zero)
    boosted = torch.tensor([[0.9, 1.5, 1.3, 0.0, 0.7], skip_leads, decided])
    torch.testing.assert_close(got.weights, boosted.softmax(1))
    torch.testing.assert_close(got.max_prob, logits.softmax(1).amax(1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hard", [True, False])
def test_a_nan_spoils_its_own_layer_and_no_other(backend, hard):
    logits = torch.zeros(3, 4)
    logits[1, 2] = math.nan
    with ops.backend(backend):
        got = ops.arch_weights(logits, 1.0, hard=hard, boost=ops.Boost(top_k=2), noise=torch.zeros(3, 4))
    assert got.weights[1].isnan().all()
    assert got.index[1] == 0
    assert got.weights[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_same_sample_on_every_backend(backend):
    rng = torch.tensor([123, 45])
    logits = torch.randn(20, 10)
    expected = reference(logits, 1.5, boost=ops.Boost(), noise=ops.gumbel_noise(rng, 20, 10))
    with ops.backend(backend):
        got = ops.arch_weights(logits, 1.5, boost=ops.Boost(), rng=rng)
    assert torch.equal(got.index, expected.index)
    torch.testing.assert_close(got.weights, expected.weights.detach(), atol=1e-7, rtol=0)


def test_samples_follow_the_softmax():
    """P(index = k) = softmax(a)_k whatever the temperature (tests/regressions, fault 8)."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5]).expand(40000, 4)
    for temperature in (0.1, 3.0):
        index = ops.arch_weights(logits, temperature, rng=torch.tensor([1, 0])).index
        shares = torch.bincount(index, minlength=4) / len(index)
        torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.012, rtol=0)


def test_the_default_generator_seeds_the_noise():
    logits = torch.zeros(50, 10)
    torch.manual_seed(3)
    first, second = ops.arch_weights(logits, 1.0).index, ops.arch_weights(logits, 1.0).index
    torch.manual_seed(3)
    assert torch.equal(ops.arch_weights(logits, 1.0).index, first)
    assert not torch.equal(first, second)


def test_layouts_and_bfloat16():
    table = torch.randn(10, 6)
    noise = torch.randn(10, 6)
    expected = ops.arch_weights(table.t().contiguous(), 1.0, noise=noise.t().contiguous())
    got = ops.arch_weights(table.t(), 1.0, noise=noise.t())
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    leaf = table.bfloat16().requires_grad_()
    sampled = ops.arch_weights(leaf, 1.0, noise=noise)
    assert sampled.weights.dtype == torch.float32
    sampled.weights.sum().backward()
    assert leaf.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 5, dtype=torch.float64)

    def soft(a):
        boost = ops.Boost(top_k=2, below=0.9, skip=-1)
        return ops.arch_weights(a, 0.8, hard=False, boost=boost, noise=noise).weights

    with ops.backend(backend):
        assert torch.autograd.gradcheck(soft, (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    logits, rng = torch.randn(4, 6, dtype=dtype), torch.tensor([1, 2])
    noise = torch.randn(4, 6, dtype=torch.float64)
    forward, backward = torch.ops.asose_fast.arch_weights_fwd, torch.ops.asose_fast.arch_weights_bwd
    for given_noise, given_rng, top_k in [(noise, None, 3), (None, rng, 0)]:
        torch.library.opcheck(forward, (logits, given_noise, given_rng, 1.2, True, top_k, 0.5, 0.4, 3, 0))
    torch.library.opcheck(backward, (logits, logits.softmax(1), 1.2))


def test_compiles_without_a_graph_break():
    logits, rng = torch.randn(4, 6, requires_grad=True), torch.tensor([1, 2])

    def scaled(a, temperature):
        return ops.arch_weights(a, temperature, boost=ops.Boost(), rng=rng).weights * torch.arange(6.0)

    compiled = torch.compile(scaled, fullgraph=True)
    for temperature in (1.5, 1.4, 1.3):
        expected = torch.autograd.grad(scaled(logits, temperature).sum(), logits)[0]
        got = torch.autograd.grad(compiled(logits, temperature).sum(), logits)[0]
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(10)}, r"logits must be \(L, K\) with K from 1 to 128, got \(10,\)"),
        ({"logits": torch.zeros(2, 0)}, "K from 1 to 128"),
        ({"logits": torch.zeros(2, 129)}, "K from 1 to 128"),
        ({"logits": torch.zeros(2, 4, dtype=torch.int64)}, "float32, float64 or bfloat16, got torch.int64"),
        ({"logits": [[0.0]]}, "must be a tensor"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive and finite"),
        ({"noise": torch.zeros(4, 2)}, r"noise must be floating and like logits, \(2, 4\)"),
        ({"noise": torch.zeros(2, 4, dtype=torch.int64)}, "noise must be floating"),
        ({"noise": torch.zeros(2, 4), "rng": torch.zeros(2, dtype=torch.int64)}, "noise or rng, not both"),
        ({"rng": torch.zeros(2)}, r"rng must be int64 \(2,\)"),
        ({"rng": torch.zeros(3, dtype=torch.int64)}, r"rng must be int64 \(2,\)"),
        ({"boost": ops.Boost(top_k=5)}, "boost.top_k must be from 1 to K = 4, got 5"),
        ({"boost": ops.Boost(skip=4)}, "boost.skip must be an index below K = 4"),
        ({"boost": ops.Boost(none=-2)}, "boost.none must be an index below K = 4"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"logits": torch.zeros(2, 4), "temperature": 1.0, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        ops.arch_weights(**arguments)
