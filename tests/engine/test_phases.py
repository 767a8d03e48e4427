"""How many epochs each phase takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asose_fast.config import PhaseConfig
from asose_fast.engine.phases import PHASES, phase_at, plan

lengths = st.integers(1, 200)


def test_defaults():
    phases = plan(PhaseConfig())
    assert [(p.name, p.first, p.epochs) for p in phases] == [
        ("warmup", 0, 10), ("search", 10, 30), ("growth", 40, 40), ("optimize", 80, 20),
    ]  # fmt: skip
    assert [p.searching for p in phases] == [False, True, True, False]
    assert phases[-1].end == 100


@pytest.mark.parametrize(
    ("total", "epochs"),
    [(100, [10, 30, 40, 20]), (10, [1, 3, 4, 2]), (50, [5, 15, 20, 10]), (200, [20, 60, 80, 40]), (4, [1, 1, 1, 1])],
)
def test_a_total_rescales(total, epochs):
    assert [p.epochs for p in plan(PhaseConfig(epochs=total))] == epochs


@given(st.tuples(lengths, lengths, lengths, lengths), st.integers(0, 50), st.integers(5, 500))
def test_every_total_is_met_in_proportion(own, finals, total):
    phases = plan(PhaseConfig(*own, epochs=total, finals_epochs=finals))
    assert [p.name for p in phases] == [name for name in PHASES if finals or name != "finals"]
    own = [*own[:3], finals, own[3]] if finals else own
    assert sum(p.epochs for p in phases) == total == phases[-1].end
    assert min(p.epochs for p in phases) >= 1
    assert [p.first for p in phases] == [0, *(p.end for p in phases[:-1])]
    exact = [length * total / sum(own) for length in own]
    if min(exact) >= 1:
        assert all(abs(p.epochs - x) < 1 for p, x in zip(phases, exact, strict=True))
    assert [phase_at(phases, e).name for e in range(total)] == [p.name for p in phases for _ in range(p.epochs)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PhaseConfig(warmup_epochs=0), "every phase needs at least one epoch, got {'warmup': 0,"),
        (PhaseConfig(epochs=3), "epochs must be at least 4, one for each phase; got 3"),
        (PhaseConfig(epochs=4, finals_epochs=1), "epochs must be at least 5, one for each phase; got 4"),
    ],
)
def test_too_few_epochs_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        plan(config)
