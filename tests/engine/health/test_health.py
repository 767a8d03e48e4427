"""The indicators and their bounds."""

import math

import pytest

from asose_fast.config import HealthConfig
from asose_fast.engine.health.indicators import indicators

GOOD = {
    "phase": "search",
    "batch_size_errors": 0,
    "max_weight": 0.5,
    "entropy": 1.5,
    "candidates": 10,
    "train_accuracy": 0.6,
    "images_per_second": 100.0,
}


def verdicts(classes=10, history=(), config=None, **changes):
    return [i.ok for i in indicators(config or HealthConfig(), classes, {**GOOD, **changes}, history)]


def test_a_good_epoch_breaches_none():
    assert verdicts() == [True] * 5


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"batch_size_errors": 1}),
        (1, {"max_weight": 0.4}),
        (2, {"entropy": 1.8}),
        (3, {"train_accuracy": 0.25}),
    ],
)
def test_each_bound_is_its_own(number, change):
    assert [i for i, ok in enumerate(verdicts(**change)) if not ok] == [number]


@pytest.mark.parametrize(("share", "ok"), [(0.0, True), (0.5, True), (4 / 6, False), (1.0, False)])
def test_blocks_without_weights_are_at_most_half(share, ok):
    assert verdicts(weightless=share) == [*[True] * 5, ok]
    assert verdicts(weightless=share, config=HealthConfig(weightless_most=1.0)) == [True] * 6
    assert verdicts(weightless=None) == [True] * 5  # where they are not judged


def test_not_a_number_is_a_breach():
    nan = float("nan")
    assert verdicts(max_weight=nan, entropy=nan, train_accuracy=nan) == [True, False, False, False, True]


@pytest.mark.parametrize(("classes", "bound"), [(10, 0.25), (100, 0.025), (2, 0.5), (3, 0.5)])
def test_accuracy_is_measured_against_chance(classes, bound):
    assert verdicts(classes, train_accuracy=bound + 1e-6)[3]
    assert not verdicts(classes, train_accuracy=bound)[3]


def test_throughput_is_the_last_epochs_over_the_phase():
    fast = [{**GOOD, "images_per_second": 100.0}] * 10
    slow = [{**GOOD, "images_per_second": 40.0}] * 4
    assert verdicts(history=fast + slow, images_per_second=40.0)[4] is False
    assert verdicts(history=fast, images_per_second=40.0)[4] is True  # one slow epoch is none
    other_phase = [{**r, "phase": "warmup"} for r in fast]
    assert verdicts(history=other_phase + slow, images_per_second=40.0)[4] is True


def test_throughput_is_compared_since_the_last_growth():
    fast, slow = ({**GOOD, "phase": "growth", "images_per_second": rate} for rate in (100.0, 40.0))
    grown = {**fast, "growth": {"kind": "wider"}}
    passed_over = {**fast, "growth": {"kind": "none", "skipped": {"wider": "too large"}}}
    for last, ok in ((grown, True), (passed_over, False), ({**fast, "growth": None}, False)):
        history = [*[fast] * 9, last, *[slow] * 4]
        assert verdicts(history=history, **slow)[4] is ok
    assert verdicts(history=[*[fast] * 9, grown], **slow)[4] is True


@pytest.mark.parametrize(("candidates", "bound"), [(10, "< 1.8"), (5, "< 1.26"), (12, "< 1.94"), (1, "< 0.542")])
def test_the_bound_on_the_entropy_is_the_same_share_of_what_is_possible(candidates, bound):
    found = indicators(HealthConfig(), 10, {**GOOD, "candidates": candidates}, [])[2]
    assert (found.bound, found.ok) == (bound, candidates >= 10)
    undecided = {**GOOD, "candidates": candidates, "entropy": math.log(candidates)}
    assert indicators(HealthConfig(), 10, undecided, [])[2].ok == (candidates == 1)  # where there is nothing to decide


def test_bounds_are_settings_and_are_named():
    config = HealthConfig(max_weight_above=0.6, entropy_below=1.0, accuracy_above_chance=4, throughput_steady=0.9)
    found = indicators(config, 10, GOOD, [])
    assert [i.bound for i in found] == ["= 0", "> 0.6", "< 1", "> 0.4", "> 0.9"]
    assert [i.ok for i in found] == [True, False, False, True, True]
    assert [i.value for i in found] == [0, 0.5, 1.5, 0.6, 1.0]
