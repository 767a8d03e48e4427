"""The bracket of the finals: who is trained when, for how long, and who goes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asose_fast.engine.finals.bracket import Bracket, Rung, rungs


def test_the_steps_are_divided_among_rungs_and_finalists():
    assert rungs(8, 240) == [Rung(8, 10), Rung(4, 20), Rung(2, 40)]
    assert rungs(5, 60) == [Rung(5, 4), Rung(3, 6), Rung(2, 11)]
    assert rungs(2, 7) == [Rung(2, 3), Rung(1, 1)]
    assert rungs(1, 7) == [Rung(1, 7)]


@given(st.integers(1, 40), st.integers(1, 3000))
def test_every_step_is_used_and_rungs_have_equal_shares(finalists, steps):
    least = (finalists - 1).bit_length() * finalists
    if steps < least:
        with pytest.raises(ValueError, match=f"take {least} steps or more, and there are {steps}: give finals_epochs"):
            rungs(finalists, steps)
        return
    found = rungs(finalists, steps)
    assert sum(rung.steps for rung in found) == steps
    assert all(rung.rounds >= 1 for rung in found)
    contests = [rung for rung in found if rung.finalists > 1]
    assert [rung.finalists for rung in contests] == halves(finalists)
    assert all(abs(rung.steps - steps / len(contests)) < 2 * finalists for rung in contests)


def halves(finalists):
    return [finalists, *halves(math.ceil(finalists / 2))] if finalists > 1 else []


def played(bracket, losses):
    """The turns of a whole bracket, and the rankings of its rungs."""
    turns, rankings = [], []
    for _ in range(sum(rung.steps for rung in bracket.rungs)):
        turn = bracket.turn
        turns.append(turn)
        bracket.done += 1
        if turn.ends and len(bracket.standing) > 1:
            rankings.append(bracket.close({k: losses[k] for k in bracket.standing}))
    return turns, rankings


def test_all_of_a_rung_take_the_same_batches_in_turn_and_the_better_half_stays():
    turns, rankings = played(Bracket.begin(4, 17), [4.0, 1.0, 3.0, 2.0])
    assert [(t.round, t.finalist) for t in turns] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3),
        (2, 1), (2, 3), (3, 1), (3, 3), (4, 1), (4, 3), (5, 1), (5, 3),
        (6, 1),
    ]  # fmt: skip
    assert [t.left for t in turns] == [4, 3, 2, 1] * 2 + [2, 1] * 4 + [1]
    assert rankings == [[1, 3, 2, 0], [1, 3]]


def test_of_equal_losses_the_more_probable_stays_and_what_is_not_finite_goes():
    bracket = Bracket.begin(5, 60)
    assert bracket.close({4: 1.0, 3: 1.0, 2: math.nan, 1: 1.0, 0: math.inf}) == [1, 3, 4, 0, 2]
    assert bracket.standing == [1, 3, 4]


def test_after_the_last_step_there_is_no_turn():
    bracket = Bracket.begin(2, 4)
    played(bracket, [1.0, 2.0])
    assert bracket.standing == [0]
    with pytest.raises(IndexError, match="4 steps"):
        _ = bracket.turn
