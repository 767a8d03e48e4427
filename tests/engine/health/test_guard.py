"""Beta decay, curvature, the signs of a collapse, and what the guard does about them."""

import copy
import math

import pytest
import torch

from asose_fast.config import GuardConfig
from asose_fast.engine.alpha.regularizers import beta_decay
from asose_fast.engine.health import collapse
from asose_fast.engine.health.curvature import dominant_eigenvalue
from asose_fast.engine.health.guard import Guard, describe
from asose_fast.engine.measure import measure
from asose_fast.engine.phases import plan
from tests.helpers import make_config, make_trainer

HEALTHY = {"phase": "search", "train_accuracy": 0.4, "idle_mass": 0.4, "entropy": 1.5, "candidates": 10}
WARMUP = {"phase": "warmup", "train_accuracy": 0.4, "idle_mass": 0.4}


def test_beta_decay_draws_every_logit_by_its_probability():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    beta_decay(logits, 0.7).backward()
    torch.testing.assert_close(logits.grad, 0.7 / 3 * logits.detach().softmax(1))
    assert torch.autograd.gradcheck(lambda a: beta_decay(a, 0.7), logits)


def test_beta_decay_grows_over_the_search_and_keeps_layers_undecided(tmp_path):
    trainer = make_trainer(tmp_path / "ramp", beta_decay=2.0)
    weights = []
    for epoch in range(1, 4):
        trainer.state.progress.epoch = epoch
        weights.append(float(trainer.state.beta_decay() / beta_decay(trainer.state.selector.logits(), 1.0)))
    assert weights == pytest.approx([1.0, 2.0, 2.0])

    spreads = []
    for weight in (0.0, 50.0):
        trainer = make_trainer(tmp_path / str(weight), beta_decay=weight, search_epochs=4)
        trainer.run()
        spreads.append(trainer.state.history[-2]["max_weight"])
    assert spreads[1] < spreads[0]


def test_the_curvature_is_the_largest_eigenvalue():
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    hessian = root @ root.T
    point = torch.randn(2, 3, dtype=torch.float64)

    def loss(a):
        return a.flatten() @ hessian @ a.flatten() / 2 + a.sum()

    expected = torch.linalg.eigvalsh(hessian)[-1]
    assert dominant_eigenvalue(loss, point, iterations=60) == pytest.approx(float(expected), rel=1e-6)
    assert dominant_eigenvalue(lambda a: -loss(a), point, iterations=60) == pytest.approx(-float(expected), rel=1e-6)
    assert dominant_eigenvalue(lambda a: a.sum() * 0, point) == 0.0


def test_measuring_the_curvature_changes_nothing_but_the_record(tmp_path):
    plain, measured = (make_trainer(tmp_path / str(n), curvature_every=n) for n in (0, 1))
    plain.run()
    measured.run()
    assert [r["curvature"] is not None for r in measured.state.history] == [False, True, True, True, False]
    assert all(r["curvature"] is None for r in plain.state.history)
    assert all(math.isfinite(r["curvature"]) for r in measured.state.history if r["curvature"] is not None)
    ours, theirs = plain.state.network.state_dict(), measured.state.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"train_accuracy": 0.1}, ["accuracy of sampled paths 10.0%, after 40.0%"]),
        ({"idle_mass": 0.9}, ["90% of the probability on operations without weights, after 40%"]),
        ({"idle_mass": 0.84}, []),
        ({"entropy": 0.2}, ["entropy 0.20 of 2.30 in the first half"]),
        ({"idle_mass": 0.9, "entropy": 0.2}, ["90%", "entropy"]),
        ({"entropy": 0.0, "candidates": 1}, []),  # a network as it is: there is nothing to compare
    ],
)
def test_every_sign_is_seen(change, words):
    found = collapse.signs(GuardConfig(), {**HEALTHY, **change}, [WARMUP], 0.3)
    assert len(found) == len(words)
    assert all(word in sign for word, sign in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("losses", "now", "rises"),
    [
        ((0.7,), 0.6, False),
        ((0.7,), 0.97, False),  # by less than 0.4 of 0.7
        ((0.7,), 0.99, True),
        ((700.0, 300.0), 570.0, False),  # in any unit
        ((700.0, 300.0), 590.0, True),
        ((2.3, 0.01), 0.05, False),  # near 0 a loss wavers by multiples of itself
        ((2.3, 0.01), 1.0, True),
    ],
)
def test_a_loss_is_bounded_by_its_rise(losses, now, rises):
    warmup = [{**WARMUP, "metric": "loss", "train_accuracy": -loss} for loss in losses]
    found = collapse.signs(GuardConfig(), {**HEALTHY, "metric": "loss", "train_accuracy": -now}, warmup, 0.3)
    assert found == rises * [f"loss of sampled paths {now:.3g}, after {losses[-1]:.3g} at the warmup's end"]


def test_a_score_may_be_of_either_sign():
    def signs(before, now):
        records = [
            {**record, "metric": "score", "train_accuracy": score}
            for record, score in zip((WARMUP, HEALTHY), (before, now), strict=True)
        ]
        return collapse.signs(GuardConfig(), records[1], records[:1], 0.3)

    assert not signs(-0.2, 0.1)
    assert not signs(-0.2, -0.25)
    assert signs(0.2, -0.1) == ["score of sampled paths -0.1, after 0.2 at the warmup's end"]
    assert signs(-0.2, -0.3) == ["score of sampled paths -0.3, after -0.2 at the warmup's end"]


def test_where_most_candidates_have_no_weights_these_may_have_most_of_the_probability():
    warmup = {**WARMUP, "idle_mass": 0.9}
    assert not collapse.signs(GuardConfig(), {**HEALTHY, "idle_mass": 0.95}, [warmup], 0.3)
    (sign,) = collapse.signs(GuardConfig(), {**HEALTHY, "idle_mass": 0.98}, [warmup], 0.3)
    assert sign == "98% of the probability on operations without weights, after 90%"
    assert not collapse.signs(GuardConfig(), {**HEALTHY, "idle_mass": 1.0}, [{**WARMUP, "idle_mass": 1.0}], 0.3)


def test_a_late_search_may_be_sure():
    assert not collapse.signs(GuardConfig(), {**HEALTHY, "entropy": 0.05}, [WARMUP], 0.6)


def test_a_growing_curvature_is_a_sign():
    steady = [{**HEALTHY, "curvature": 1.0} for _ in range(9)]
    assert not collapse.signs(GuardConfig(), {**HEALTHY, "curvature": 1.0}, steady, 0.3)
    rising = steady[:5] + [{**HEALTHY, "curvature": 1.5} for _ in range(4)]
    (sign,) = collapse.signs(GuardConfig(), {**HEALTHY, "curvature": 1.5}, rising, 0.3)
    assert "1.50 times" in sign
    assert not collapse.signs(GuardConfig(), {**HEALTHY, "curvature": 1.5}, rising[:6], 0.3)


def test_the_idle_mass_is_that_of_candidates_without_weights():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    names = ("none", "sep_conv_3x3", "skip_connect", "max_pool_3x3")
    assert collapse.idle_mass(probabilities, names) == pytest.approx((0.8 + 0.7) / 2)


def test_the_guard_says_what_is_to_be_done():
    phases = plan(make_config())
    warmup, search, _, optimize = phases
    guard = Guard(GuardConfig(guard="rollback", guard_rollbacks=1))
    healthy, ill = {**HEALTHY, "epoch": 2}, {**HEALTHY, "epoch": 2, "train_accuracy": 0.0}
    assert guard.examine(search, phases, dict(ill), [WARMUP]) == "nothing"  # to return to
    assert guard.examine(warmup, phases, {**WARMUP, "epoch": 1}, []) == "keep"
    assert guard.examine(search, phases, healthy, [WARMUP]) == "keep"
    guard.healthy = {}
    record = dict(ill)
    assert guard.examine(search, phases, record, [WARMUP]) == "return"
    assert record["guard"]["action"] == "back to the last healthy epoch, learning rate of alpha x 0.5"
    assert guard.examine(search, phases, dict(ill), [WARMUP]) == "return"
    assert guard.frozen
    assert guard.examine(search, phases, dict(ill), [WARMUP]) == "nothing"
    assert guard.examine(optimize, phases, dict(ill), [WARMUP]) == "nothing"


class Sabotage:
    """Forces alpha to skip_connect at the end of an epoch's steps, once or in every later epoch."""

    def __init__(self, epoch, again=False):
        self.epoch, self.again = epoch, again

    def on_epoch_start(self, state, phase): ...

    def on_step(self, state):
        progress = state.progress
        here = progress.epoch >= self.epoch if self.again else progress.epoch == self.epoch
        if here and phase_searches(state) and progress.step == state.data.train.num_batches():
            with torch.no_grad():
                for row in state.selector.alpha:
                    row.zero_()[state.selector.candidates.index("skip_connect")] = 9.0

    def on_epoch_end(self, state, record): ...


def phase_searches(state):
    return state.progress.phase in ("search", "growth")


LONG = {"search_epochs": 4, "growth_epochs": 2}


def test_a_healthy_run_raises_no_alarm(tmp_path):
    trainer = make_trainer(tmp_path, guard="rollback", **LONG)
    trainer.run()
    assert not any("guard" in record for record in trainer.state.history)


def test_a_collapse_is_warned_of(tmp_path):
    trainer = make_trainer(tmp_path, [Sabotage(2)], guard="warn", **LONG)
    trainer.run()
    assert trainer.state.history[2]["guard"]["action"] == "warning"
    assert "without weights" in describe(trainer.state.history[2]["guard"])[0]


def test_a_collapse_is_rolled_back_to_the_last_healthy_epoch(tmp_path):
    trainer = make_trainer(tmp_path, [Sabotage(2)], guard="rollback", **LONG)
    kept = []
    end = trainer._end_epoch
    trainer._end_epoch = lambda phase: (end(phase), kept.append(copy.deepcopy(trainer.state.search_state())))
    trainer.run()
    assert len(trainer.state.history) == 8
    assert "back to the last healthy epoch, learning rate of alpha x 0.5" in trainer.state.history[2]["guard"]["action"]
    healthy, after = kept[1], kept[2]
    assert torch.equal(healthy["selector"]["alpha"], after["selector"]["alpha"])
    assert all(torch.equal(healthy["network"][name], after["network"][name]) for name in healthy["network"])
    assert after["selector"]["rng"][1] > healthy["selector"]["rng"][1]
    assert trainer.state.guard.rollbacks == 1
    assert not any("guard" in record for record in trainer.state.history[3:])


def test_rollbacks_end_and_so_does_the_run(tmp_path):
    trainer = make_trainer(tmp_path, [Sabotage(2, again=True)], guard="rollback", guard_rollbacks=1, **LONG)
    trainer.run()
    assert len(trainer.state.history) == 8
    actions = [record["guard"]["action"] for record in trainer.state.history if "guard" in record]
    assert [action.split(", ")[-1] for action in actions[:2]] == [
        "learning rate of alpha x 0.5",
        "learning rate of alpha x 0",
    ]
    assert actions[2:] == ["warning"] * len(actions[2:])


GROWING = {"search_epochs": 2, "growth_epochs": 6, "growth_patience": 1, "growth_threshold": 100.0}


def test_a_frozen_architecture_does_not_grow(tmp_path):
    collapsing = [Sabotage(2, again=True)]
    trainer = make_trainer(tmp_path / "frozen", collapsing, guard="rollback", guard_rollbacks=0, **GROWING)
    trainer.run()
    assert trainer.state.guard.frozen
    assert not any(record.get("growth") for record in trainer.state.history)
    free = make_trainer(tmp_path / "free", collapsing, guard="warn", **GROWING)
    free.run()
    assert any(record.get("growth") for record in free.state.history)


def test_an_epoch_that_is_turned_back_does_not_count_as_the_best(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, [Sabotage(2)], guard="rollback", **LONG)
    seen = []

    def flattered(state, phase):
        record = measure(state, phase)
        if state.progress.epoch == 2:
            record["valid_accuracy"] = 1.0
        seen.append(state.progress.best_accuracy)
        return record

    monkeypatch.setattr("asose_fast.engine.trainer.measure", flattered)
    trainer.run()
    assert trainer.state.history[2]["guard"]["action"].startswith("back")
    assert 0 < max(seen) < 1.0


def test_a_run_resumed_after_a_rollback_ends_with_the_same_bits(tmp_path):
    whole = make_trainer(tmp_path / "whole", [Sabotage(2)], guard="rollback", **LONG)
    states = []
    end = whole._end_epoch
    whole._end_epoch = lambda phase: (end(phase), states.append(copy.deepcopy(whole.state.state_dict())))
    whole.run()
    for start in (1, 2, 3):
        again = make_trainer(tmp_path / str(start), [Sabotage(2)], guard="rollback", **LONG)
        again.state.load_state_dict(states[start])
        again.run()
        ours, theirs = whole.state.network.state_dict(), again.state.network.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert again.state.alpha_optimizer.param_groups[0]["lr"] == whole.state.alpha_optimizer.param_groups[0]["lr"]


def test_bad_settings_are_refused():
    for bad in ({"guard_rollbacks": -1}, {"beta_decay": -0.1}, {"guard_curvature": 0.9}, {"curvature_every": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make_config(**bad)
