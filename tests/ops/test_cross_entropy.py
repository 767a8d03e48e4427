"""cross_entropy: loss, gradient and right answers as PyTorch has them, odd labels and scores included."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.raw_calls import OPERATORS, right_calls

BACKENDS = [b for b in ("reference", "cpu") if not registry.why_not("cross_entropy", b, "cpu")]


def check(scores, labels, smoothing, backend, exact=None):
    """Loss and gradient are those of the scores in float64, or in the type `exact`."""
    wide = scores.detach().to(exact or torch.float64).requires_grad_()
    expected = F.cross_entropy(wide, labels, label_smoothing=smoothing)
    (2 * expected).backward()
    scores = scores.detach().requires_grad_()
    with ops.backend(backend):
        loss, correct = ops.cross_entropy(scores, labels, smoothing)
        (2 * loss).backward()
    torch.testing.assert_close(loss, expected.to(loss.dtype), equal_nan=True)
    torch.testing.assert_close(scores.grad, wide.grad.to(loss.dtype), equal_nan=True, atol=1e-6, rtol=1e-5)
    assert torch.equal(correct, (scores.argmax(1) == labels).sum())
    assert not correct.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matches_the_float64_reference(data, backend):
    rows, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    scores = torch.randn(rows, classes, dtype=dtype) * data.draw(st.sampled_from([0.1, 3.0, 40.0]))
    if data.draw(st.booleans()):
        scores = scores.t().contiguous().t()
    labels = torch.randint(classes, (rows,))
    if data.draw(st.booleans()):
        labels[data.draw(st.integers(0, rows - 1))] = -100
    check(scores, labels, data.draw(st.sampled_from([0.0, 0.1, 1.0])), backend)


ODD = {
    "ties": [1.0, 3.0, 3.0, 3.0],
    "NaN": [1.0, math.nan, 3.0, math.nan],
    "infinite": [1.0, math.inf, 3.0, 0.0],
    "two infinite": [1.0, math.inf, math.inf, 0.0],
    "impossible": [1.0, -math.inf, 2.0, -math.inf],
    "all impossible": 4 * [-math.inf],
    "large": [1e30, -1e30, 1e38, 0.0],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("label", range(4))
@pytest.mark.parametrize("name", ODD)
def test_odd_scores(name, label, smoothing, backend):
    scores = torch.tensor([ODD[name], [0.0, 1.0, 2.0, 3.0]])
    check(scores, torch.tensor([label, 2]), smoothing, backend, exact=torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("labels", [[-100, -100], []])
def test_the_mean_of_nothing_is_nan(labels, backend):
    scores = torch.randn(len(labels), 3, requires_grad=True)
    with ops.backend(backend):
        loss, correct = ops.cross_entropy(scores, torch.tensor(labels, dtype=torch.int64))
    assert loss.isnan()
    assert correct == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("label", [-1, 3, -101, 2**40])
def test_a_label_that_is_no_class_is_refused(label, backend):
    with ops.backend(backend), pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
        ops.cross_entropy(torch.randn(2, 3), torch.tensor([0, label]))


@pytest.mark.parametrize(
    ("scores", "labels", "smoothing", "match"),
    [
        (torch.ones(2, 3, 4), torch.zeros(2).long(), 0.0, r"scores must be \(N, classes\)"),
        (torch.ones(2, 0), torch.zeros(2).long(), 0.0, "with classes > 0"),
        (torch.ones(2, 3), torch.zeros(3).long(), 0.0, r"labels must be torch.int64 \(2,\)"),
        (torch.ones(2, 3), torch.zeros(2), 0.0, "labels must be torch.int64"),
        (torch.ones(2, 3), torch.zeros(2).long(), 1.5, "smoothing must be from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(scores, labels, smoothing, match):
    with pytest.raises(ValueError, match=match):
        ops.cross_entropy(scores, labels, smoothing)


def test_many_scores_are_left_to_pytorch():
    assert registry.select("cross_entropy", torch.zeros(1000, 1000)).__name__.endswith("reference.cross_entropy")
    scores, labels = torch.randn(300, 100, requires_grad=True), torch.randint(100, (300,))
    found = torch.autograd.grad(ops.cross_entropy(scores, labels)[0], scores)
    torch.testing.assert_close(found, torch.autograd.grad(F.cross_entropy(scores, labels), scores))


def test_gradcheck():
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, -100, 3])
    torch.autograd.gradcheck(lambda s: ops.cross_entropy(s, labels, 0.1)[0], scores)
    torch.autograd.gradgradcheck(lambda s: ops.cross_entropy(s, labels, 0.1)[0], scores)


@pytest.mark.parametrize("name", ["cross_entropy_fwd", "cross_entropy_bwd"])
def test_opcheck(name):
    torch.library.opcheck(getattr(OPERATORS, name), tuple(right_calls()[name].values()))


def test_torch_compile_takes_it_whole():
    scores, labels = torch.randn(5, 4, requires_grad=True), torch.arange(5) % 4
    compiled = torch.compile(ops.cross_entropy, fullgraph=True, backend="aot_eager")
    found, expected = (f(scores, labels, 0.1) for f in (compiled, ops.cross_entropy))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scores) for loss, _ in (found, expected)))
