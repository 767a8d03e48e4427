"""term_weights: the formula, whose gradients are exact; a lone candidate; what is refused."""

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.term_weights import SHORTCUT, term_weights
from tests.ops.raw_calls import OPERATORS

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("term_weights", b, "cpu")]
ORDER = (2, 0, SHORTCUT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_shortcut_takes_the_rest_and_the_identity(backend):
    weights, gain = torch.tensor([0.5, 0.25, 0.125, 2.0]), torch.tensor(0.5)
    with ops.backend(backend):
        v = term_weights(weights, gain, ORDER, 3, torch.float32, weights)
        lone = term_weights(None, gain, (4, SHORTCUT), SHORTCUT, torch.float64, gain)
        plain = term_weights(weights, None, (1, 0), SHORTCUT, torch.float32, weights)
    assert v.tolist() == [0.0625, 0.25, 1.5]
    assert (lone.tolist(), lone.dtype) == ([0.5, 0.5], torch.float64)
    assert plain.tolist() == [0.25, 0.5]
    assert term_weights(None, None, (3,), SHORTCUT, torch.float32, gain).tolist() == [1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("identity", [SHORTCUT, 1])
def test_gradients(backend, identity):
    weights = torch.randn(4, dtype=torch.float64, requires_grad=True)
    gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with ops.backend(backend):
        for given in ((weights, gain), (None, gain), (weights, None)):
            order = ORDER if given[1] is not None else (2, 0)
            leaves = [t for t in given if t is not None]
            function = lambda *_, given=given, order=order: term_weights(  # noqa: E731
                *given, order, identity, torch.float64, gain
            )
            assert torch.autograd.gradcheck(function, leaves)
            assert torch.autograd.gradgradcheck(function, leaves)


def test_a_shortcut_without_a_gain_is_refused():
    with pytest.raises(ValueError, match="a shortcut must come with a gain"):
        OPERATORS.term_weights_fwd(torch.ones(3), None, [0, SHORTCUT], SHORTCUT, torch.float32)
