"""Fault 9: noise was clipped by an epsilon; it must be an exact draw, seeded, the same on every backend."""

import math

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import noise as noise_module
from asose_fast.ops import registry
from tests.helpers import make_selector

BACKENDS = [name for name in ("reference", "cpu") if not registry.why_not("arch_weights", name, "cpu")]


@pytest.mark.parametrize(("word", "u_tail"), [(0xFFFFFFFF, 2.0**-53), (0, None)])
def test_the_extremes_are_not_clipped(monkeypatch, word, u_tail):
    words = torch.full((1, 1), word)
    monkeypatch.setattr(noise_module, "_philox4x32", lambda counter, key: (words,) * 4)
    noise = ops.gumbel_noise(torch.tensor([0, 0]), 1, 1).item()
    exact = -math.log(-math.log1p(-u_tail)) if u_tail else -math.log(53 * math.log(2))
    assert noise == pytest.approx(exact, rel=1e-12)
    assert abs(exact) > 3.6


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_follow_the_softmax(backend):
    logits = torch.tensor([[-6.0, 0.0, 1.0, 2.5, 0.3]])
    draws = 60_000
    with ops.backend(backend):
        index = ops.arch_weights(logits.expand(draws, 5), 0.7, rng=torch.tensor([11, 5])).index
    expected = draws * logits[0].double().softmax(0)
    counts = torch.bincount(index, minlength=5)
    assert ((counts - expected).square() / expected).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_every_backend_draws_the_same_paths():
    drawn = []
    for backend in BACKENDS:
        selector = make_selector(seed=7)
        with ops.backend(backend):
            drawn.append([selector.path(phase) for phase in ("warmup", "search", "growth") for _ in range(20)])
    assert all(paths == drawn[0] for paths in drawn)


def test_draws_depend_on_the_seed_and_on_nothing_global():
    def draw(seed):
        selector = make_selector(seed=seed)
        torch.rand(int(torch.randint(1, 9, ())))
        return [selector.path("search") for _ in range(10)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_no_two_draws_are_the_same():
    selector = make_selector()
    tables = [selector.sample("growth", hard=False).weights.detach() for _ in range(20)]
    assert all(not torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])
