"""Epochs are planned for the time that a run may take, before the first one and after each that says how long it is."""

import time

import pytest

from asose_fast.engine.deadline import Deadline, describe
from asose_fast.engine.phases import plan, with_epochs
from tests.helpers import make_config

ESTIMATES = {"warmup": 1.0, "search": 4.0, "growth": 4.0, "optimize": 2.0}
LENGTHS = {"warmup_epochs": 10, "search_epochs": 20, "growth_epochs": 5, "optimize_epochs": 40}


class Clock:
    """Time passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def make_deadline(seconds, phases, after=3.0, **changes):
    shares, least = {phase.name: phase.epochs for phase in phases}, dict.fromkeys(ESTIMATES, 1)
    return Deadline(seconds, after, shares, least, dict(ESTIMATES), **changes)


def seconds_of(epochs):
    return sum(own * seconds for own, seconds in zip(epochs, ESTIMATES.values(), strict=True))


def run(clock, deadline, phases, actual):
    """The phases in the end and the seconds in all, of epochs that take what `actual(phase, epoch)` says."""
    deadline.start()
    history = []
    while len(history) < phases[-1].end:
        phase = next(phase for phase in phases if phase.end > len(history))
        clock.now += actual(phase.name, len(history))
        history.append({"elapsed": deadline.elapsed})
        phases = with_epochs(phases, deadline.plan_again(phases, history))
    clock.now += deadline.after
    return phases, deadline.elapsed


@pytest.mark.parametrize(("seconds", "before"), [(20.0, 0.0), (60.0, 7.0), (198.0, 0.0), (1000.0, 30.0), (1e6, 0.0)])
def test_the_first_plan_keeps_the_proportions_and_fits(clock, seconds, before):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(seconds, phases)
    clock.now += before
    epochs = deadline.plan(phases)
    left = seconds - before - 3
    assert left - max(ESTIMATES.values()) < seconds_of(epochs) <= left
    for own, of in zip(epochs, LENGTHS.values(), strict=True):
        assert own == 1 or abs(own - of * sum(epochs) / sum(LENGTHS.values())) <= 2


def test_a_time_that_holds_the_configured_epochs_gives_them(clock):
    phases = plan(make_config(**LENGTHS))
    assert make_deadline(seconds_of(LENGTHS.values()) + 3, phases).plan(phases) == list(LENGTHS.values())


def test_what_not_even_the_shortest_run_fits_into_is_refused_with_its_time(clock):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(15, phases)
    clock.now += 2.5
    with pytest.raises(ValueError, match=r"seconds must be at least 17 here, got 15: .* taken 2\.5, .* 11\.0, .* 3\.0"):
        deadline.plan(phases)
    assert make_deadline(17, phases, spent=2.5).plan(phases) == [1, 1, 1, 1]


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.6, 3.0])
def test_a_run_whose_epochs_take_something_else_ends_in_time(clock, factor):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(300.0, phases)
    phases = with_epochs(phases, deadline.plan(phases))
    ended, took = run(clock, deadline, phases, lambda name, _: factor * ESTIMATES[name])
    assert 300 * 0.9 < took <= 300 * 1.05
    if factor == 1.0:
        assert ended == phases


@pytest.mark.parametrize("late", [0.3, 1.0, 3.0])
def test_a_machine_that_changes_its_pace_in_the_last_phase_is_followed(clock, late):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(300.0, phases)
    phases = with_epochs(phases, deadline.plan(phases))
    pace = {epoch: late for epoch in range(phases[-1].first + 8, 10**4)}
    _, took = run(clock, deadline, phases, lambda name, epoch: ESTIMATES[name] * pace.get(epoch, 1.0))
    assert 300 * 0.9 < took <= 300 * 1.1


def test_only_phases_that_have_not_begun_are_planned_again_but_for_the_last(clock):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(300.0, phases)
    deadline.start()
    phases = with_epochs(phases, deadline.plan(phases))
    first = [phase.epochs for phase in phases]
    history = []
    for epoch in range(1, phases[0].end + 1):  # four times as slow as estimated
        clock.now += 4 * ESTIMATES["warmup"]
        history.append({"elapsed": deadline.elapsed})
        epochs = deadline.plan_again(phases, history)
        assert (epochs == first) == (epoch < phases[0].end)
    assert epochs[0] == first[0]
    assert all(now < then for now, then in zip(epochs[1:], first[1:], strict=True))


def test_a_run_that_is_late_keeps_an_epoch_of_each_phase(clock):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(300.0, phases)
    phases = with_epochs(phases, deadline.plan(phases))
    ended, _ = run(clock, deadline, phases, lambda name, _: 100 * ESTIMATES[name])
    assert [phase.epochs for phase in ended] == [phases[0].epochs, 1, 1, 1]


def test_no_phase_falls_below_its_least(clock):
    phases = plan(make_config(**LENGTHS))
    deadline = make_deadline(300.0, phases)
    deadline.least["growth"] = 9
    phases = with_epochs(phases, deadline.plan(phases))
    assert seconds_of([phase.epochs for phase in phases]) <= 297
    assert phases[2].epochs == 9
    ended, _ = run(clock, deadline, phases, lambda name, _: 100 * ESTIMATES[name])
    assert [phase.epochs for phase in ended] == [phases[0].epochs, 1, 9, 1]
    short = make_deadline(40.0, phases)
    short.least["growth"] = 9
    with pytest.raises(ValueError, match="seconds must be at least 46 here"):
        short.plan(phases)


def test_the_time_between_two_processes_of_a_run_does_not_count(clock):
    phases = plan(make_config())
    deadline = make_deadline(100.0, phases)
    clock.now += 30
    deadline.start()
    clock.now += 10
    saved = deadline.state_dict()
    clock.now += 1e5
    restored = Deadline(**saved)
    clock.now += 2
    assert restored.elapsed == pytest.approx(42)
    restored.start()
    assert restored.first == pytest.approx(30)


def test_a_plan_is_said_in_words():
    assert describe({}) == []
    assert describe({"warmup": 2, "optimize": 9}) == [
        "planned again for the time that is left: 2 warmup, 9 optimize epochs"
    ]
