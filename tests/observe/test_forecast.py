"""The time that is left, from the epochs done."""

import pytest

from asose_fast.engine.phases import plan
from asose_fast.observe import forecast
from tests.helpers import make_config

PHASES = plan(make_config(warmup_epochs=2, search_epochs=10, growth_epochs=4, optimize_epochs=3))


def history(*seconds):
    return [{"seconds": value} for value in seconds]


def test_nothing_is_known_before_the_first_step():
    assert forecast.left(PHASES, [], 0, 0.0, 0.0) is None


def test_the_first_epoch_tells_of_itself():
    assert forecast.left(PHASES, [], 0, 0.25, 1.0) == (pytest.approx(7.0), pytest.approx(7.0 + 17 * 4.0))


def test_a_phase_tells_of_its_epochs_and_of_those_that_follow():
    left = forecast.left(PHASES, history(1.0, 3.0, 10.0, 10.0), 4, 0.5, 99.0)
    assert left == (pytest.approx(7.5 * 10), pytest.approx(7.5 * 10 + 4 * 10 + 3 * 2.0))


def test_the_last_five_epochs_count_and_outliers_do_not():
    seconds = [1.0, 1.0, *[50.0] * 3, 10.0, 10.0, 500.0, 10.0, 10.0]
    assert forecast.left(PHASES, history(*seconds), 10, 0.0, 0.0).phase == pytest.approx(20.0)


def test_the_end():
    assert forecast.left(PHASES, history(*[1.0] * 18), 18, 1.0, 1.0) == (0.0, 0.0)


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00"), (61, "1:01"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds, said):
    assert forecast.clock(seconds) == said
