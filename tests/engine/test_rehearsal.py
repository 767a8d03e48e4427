"""About how long a run takes is found by steps of every kind, which leave no trace."""

import time

import pytest
import torch

from asose_fast.data import load_data
from asose_fast.engine import rehearsal
from asose_fast.engine.finals.finals import require_steps
from asose_fast.engine.processes import Processes
from asose_fast.engine.rehearsal import Estimate, about, plan_for
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from tests.helpers import CPU, make_config, make_trainer


def make_task(**changes):
    config = make_config(**changes)
    return ImageTask(config, load_data(config, config.batch_size, config.seed, CPU), CPU)


@pytest.fixture
def always(monkeypatch):
    """No run is too short."""
    monkeypatch.setattr(rehearsal, "SHORT", 0)


@pytest.mark.parametrize("changes", [{}, {"optimize_on": "all", "finals_epochs": 1, "finals_paths": 2}])
def test_time_is_that_of_the_steps_by_their_number(always, monkeypatch, changes):
    """Each weight step takes 1 s in warmup, 10 in search and growth and 100 derived, each alpha step 1,000 s."""
    seconds, steps = [0.0], []

    def took(phase, more):
        seconds[0] += more
        steps.append(phase.name)

    def weight_step(self, phase, x, y):
        took(phase, 10 if phase.searching else 100 if phase.derives else 1)

    monkeypatch.setattr(Trainer, "_weight_step", weight_step)
    monkeypatch.setattr(Trainer, "_alpha_step", lambda self, phase, *_: took(phase, 1000))
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    task = make_task(**changes)
    evaluated = 2 + 2  # validation batches, and those of the statistics
    warmup = 5 + evaluated / 3
    search = 2 * (5 * 10 + 5 / 2 * 1000 + 10 * evaluated / 3)
    growth = search / 2
    derived = 5 * 100 + 100 * 2 / 3
    if changes:
        derived = 6 * 100  # on the validation images too, and so without an evaluation
        derived += 5 * 100 + 100 * evaluated / 3  # the finals
    assert about(task) == pytest.approx(warmup + search + growth + derived)
    assert {name: steps.count(name) for name in steps} == {"warmup": 5, "search": 10, "optimize": 5}


def test_a_rehearsal_leaves_no_trace(always, tmp_path):
    plain, rehearsed = (make_trainer(tmp_path / name, space="stages", derive_min_share=0.5) for name in "ab")
    before = torch.get_rng_state()
    assert about(rehearsed.state.task) > 0
    assert torch.equal(torch.get_rng_state(), before)
    for trainer in (plain, rehearsed):
        torch.manual_seed(0)
        trainer.run()
    expected = plain.state.network.state_dict()
    for name, tensor in rehearsed.state.network.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert sorted(p.name for p in tmp_path.glob("b/**/*.pt")) == sorted(p.name for p in tmp_path.glob("a/**/*.pt"))


def test_a_short_run_is_not_rehearsed(monkeypatch):
    monkeypatch.setattr(rehearsal, "_Rehearsal", lambda *_: pytest.fail("A rehearsal!"))
    assert about(make_task()) is None


def test_what_the_run_will_tell_is_not_told_before(always):
    assert about(make_task(learning_rate=1e30)) is None


@pytest.mark.parametrize("seconds", [60.0, 300.0])
def test_finals_have_as_many_epochs_as_they_need(monkeypatch, seconds):
    task = make_task(finals_epochs=1, finals_paths=8)  # of 24 steps or more, in epochs of 5
    estimate = Estimate({phase.name: 4.0 for phase in task.phases}, 1.0)
    monkeypatch.setattr(rehearsal, "rehearsed", lambda task, processes: estimate)
    deadline = plan_for(seconds, task, Processes(), time.monotonic())
    finals = next(phase for phase in task.phases if phase.finals)
    assert finals.epochs == max(5, task.phases[-1].epochs)
    assert deadline.least == {"warmup": 1, "search": 1, "growth": 1, "finals": 5, "optimize": 1}
    require_steps(task)
    assert seconds - 40 < 4.0 * task.phases[-1].end <= seconds - 1
