"""Whether a plan is long enough to decide anything is known before it begins."""

import math
import re

import pytest
import torch

import asose_fast
from asose_fast import Config, PhaseSpec, train
from asose_fast.engine import outlook
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import plan, schedule
from tests.helpers import CPU, options
from tests.library.networks import Choices, batches, small
from tests.library.test_search import find

BATCHES = 17
"""Of digits in an epoch."""


def selector(config=Config()):  # noqa: B008
    return Selector(config, config.candidates, 6, 0, CPU)


def said(config, phases=None, rate=0.1):
    return outlook.shortcomings(config, phases or plan(config), BATCHES, selector(config), rate)


def test_the_default_plan_is_long_enough_where_there_are_images():
    assert outlook.shortcomings(Config(), plan(Config()), 10, selector(), 0.1) == []
    (sentence,) = outlook.shortcomings(Config(), plan(Config()), 9, selector(), 0.1)
    assert sentence.startswith("90 warmup steps are 9 for each of 10 candidates. ")


def test_photographs_whose_candidates_had_nine_steps_are_warned_of():
    """Few images in batches of 64: 90 steps of warmup, which leave hardly any candidate out."""
    (sentence,) = outlook.shortcomings(Config(), plan(Config()), 9, selector(), 0.1)
    assert sentence == (
        "90 warmup steps are 9 for each of 10 candidates. Fewer than 10 hardly train a candidate before it is first "
        "judged. Give warmup_epochs 12 or more"
    )


def test_so_many_steps_take_the_last_candidate_to_the_first_place():
    """Adam under a gradient that never changes its sign, the fastest that it can be."""
    chosen = selector()
    needed = outlook.steps_to_decide(chosen, 0.1)
    row = max(chosen.alpha, key=lambda row: row.detach()[1:].max() - row.detach()[1:].min())
    last, first = 1 + int(row[1:].argmin()), int(row.argmax())
    optimizer = torch.optim.Adam([row], 0.1, betas=(0.5, 0.999))
    for step in range(1, needed + 1):
        row.grad = torch.zeros_like(row)
        row.grad[last], row.grad[first] = -1.0, 1.0
        optimizer.step()
        assert bool(row[last] >= row[first] - 1e-5) == (step >= needed)


def test_where_there_is_nothing_but_none_nothing_is_decided():
    assert outlook.steps_to_decide(Selector(Config(), ("none",), 2, 0, CPU), 0.1) == 0


def test_the_planned_alpha_steps_are_those_that_are_taken():
    for config in (small(alpha_every=3), small(alpha_every=4, search_epochs=5)):
        taken = find(config=config).history[-1]["alpha_steps"]
        assert outlook.alpha_steps(config, plan(config, ("warmup", "search", "optimize")), 4) == taken
    specs = [PhaseSpec("a", 2, updates="alpha"), PhaseSpec("b", 3)]
    taken = find(config=small(alpha_every=3), phases=specs).history[-1]["alpha_steps"]
    assert outlook.alpha_steps(small(alpha_every=3), schedule(specs), 4) == taken


@pytest.mark.parametrize("config", [Config(epochs=4), Config(search_epochs=1, growth_epochs=1), Config(epochs=9)])
def test_the_remedy_is_the_shortest(config):
    pattern = r"(\d+) (alpha|warmup) steps .* Give (\w+) (\d+) or more"
    assert (config.epochs == 9) == (not any("alpha steps" in sentence for sentence in said(config)))
    for sentence in said(config):
        _, kind, setting, value = re.search(pattern, sentence).groups()
        values = {**config.to_dict(), "candidates": tuple(config.candidates), "growth_candidates": ()}
        for longer, mended in ((int(value), True), (int(value) - 1, False)):
            now = Config(**{**values, "growth_kinds": tuple(config.growth_kinds), setting: longer})
            assert mended == (not any(f" {kind} steps" in other for other in said(now)))


def test_a_rate_of_ones_own_is_named():
    (sentence,) = said(Config(alpha_learning_rate=1e-6, warmup_epochs=48), rate=1e-6)
    assert sentence.endswith("or more, or a larger alpha_learning_rate")
    assert said(Config(alpha_learning_rate=0.0, warmup_epochs=48), rate=0.0) == []  # it is not to move


def test_candidates_that_a_warmup_leaves_out_are_counted():
    expected, trials = outlook.left_out(selector(), 17), 200
    paths = torch.randint(10, (trials, 17, 6), generator=torch.Generator().manual_seed(0))
    left = sum(10 - len(set(paths[t, :, layer].tolist())) for t in range(trials) for layer in range(6)) / trials
    assert expected == pytest.approx(left, rel=0.03)
    assert said(Config(warmup_epochs=1, warmup="skip")) == []  # trains no candidate, as it was told
    (sentence,) = said(Config(warmup_epochs=1))
    assert sentence.startswith("17 warmup steps are 1.7 for each of 10 candidates, and likely to leave out 10. ")
    assert sentence.endswith("Give warmup_epochs 6 or more")
    assert not said(Config(warmup_epochs=1, candidates=("sep_conv_3x3",)))  # there is nothing to compare


def test_the_command_and_the_function_warn_before_the_first_epoch(tmp_path, capsys):
    assert train.main([*options(), "--out", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert re.search(r"^warning: 7 alpha steps are planned, too few to decide anything", error, re.MULTILINE)
    assert train.main(["--resume", str(tmp_path)]) == 0
    assert "alpha steps are planned" not in capsys.readouterr().err  # once is enough
    with pytest.warns(RuntimeWarning, match="^0 alpha steps are planned.*Give search_epochs"):
        asose_fast.search(Choices(), (batches(1), batches(1)), small(alpha_every=9))
    phases = [PhaseSpec("only", 1)]
    with pytest.warns(RuntimeWarning, match="Give the phases of the schedule more epochs"):
        find(phases=phases)


def test_a_search_that_is_long_enough_is_not_warned_of(recwarn):
    find(config=small(warmup_epochs=60, search_epochs=6))
    assert not [w for w in recwarn if "steps" in str(w.message)]
    assert math.isfinite(outlook.left_out(selector(), 0))
