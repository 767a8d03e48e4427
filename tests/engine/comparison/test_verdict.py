"""The interval around a difference, by hand, and what is said of it."""

import math

import pytest

from asose_fast.engine.comparison.verdict import Difference, conclusion, difference

SPREAD = [0.72, 0.73, 0.74]
"""Of mean 0.73 and standard deviation 0.01; t_2(0.975) = 4.302653."""


def test_the_interval_is_that_of_one_draw_against_the_mean_of_the_others():
    half = 4.302653 * 0.01 * math.sqrt(1 + 1 / 3)
    assert difference(0.80, SPREAD, SPREAD, 10**6) == pytest.approx((0.07, 0.07 - half, 0.07 + half), abs=1e-7)
    half = 4.302653 * 0.01 * math.sqrt(2)
    assert difference(0.80, [0.78], SPREAD, 10**6) == pytest.approx((0.02, 0.02 - half, 0.02 + half), abs=1e-7)


@pytest.mark.parametrize("accuracy", [0.9, 1.0])
def test_networks_that_happen_to_be_alike_leave_the_chance_of_the_images(accuracy):
    found = accuracy - 0.02
    p = (100 * (found + 5 * accuracy) / 6 + 2) / 104
    half = 1.959964 * math.sqrt(p * (1 - p) / 100) * math.sqrt(1 + 1 / 5)
    result = difference(found, [accuracy] * 5, [accuracy] * 5, 100)
    assert result == pytest.approx((-0.02, -0.02 - half, -0.02 + half), abs=1e-7)
    assert (result.better, result.worse) == (False, False)
    assert difference(found, [accuracy] * 5, [accuracy] * 5, 10**5).worse


@pytest.mark.parametrize(
    ("found", "better", "worse", "words"),
    [
        (0.80, True, False, "better by 7.0 points [2.0, 12.0]"),
        (0.76, False, False, "not shown to be better, +3.0 points [-2.0, 8.0]"),
        (0.70, False, False, "not shown to be better, -3.0 points [-8.0, 2.0]"),
        (0.66, False, True, "worse by 7.0 points [2.0, 12.0]"),
    ],
)
def test_a_verdict_is_no_more_than_its_interval(found, better, worse, words):
    result = difference(found, SPREAD, SPREAD, 10**6)
    assert (result.better, result.worse, result.words) == (better, worse, words)


BETTER, EQUAL, WORSE = Difference(0.03, 0.01, 0.05), Difference(0.03, -0.01, 0.07), Difference(-0.03, -0.05, -0.01)


@pytest.mark.parametrize(
    ("random", "plain", "said"),
    [
        (BETTER, BETTER, "The search was worth it on these images."),
        (BETTER, EQUAL, "not shown to be worth it on these images. The plain network, which needs none, is as good"),
        (EQUAL, EQUAL, "not shown to be worth it on these images. The plain network, which needs none, is as good"),
        (EQUAL, BETTER, "The search is not shown to be worth it on these images."),
        (WORSE, EQUAL, "not worth it on these images: a random network of this size is better."),
        (BETTER, WORSE, "not worth it on these images: the plain network, which needs none, is better."),
    ],
)
def test_a_search_is_worth_it_where_it_beats_chance_and_a_plain_network(random, plain, said):
    assert said in conclusion(random, plain)
    assert ("plain" in conclusion(random, plain)) == (plain is not BETTER and random is not WORSE)
