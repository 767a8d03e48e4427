"""`Config(seconds=...)` plans a search in a user's network for a time."""

import copy
import time

import pytest
import torch

import asose_fast
from asose_fast import Observer, PhaseSpec
from asose_fast.engine import rehearsal
from asose_fast.engine.rehearsal import Estimate
from asose_fast.library import run as library
from asose_fast.library.task import ModuleTask
from asose_fast.store.checkpoint import CheckpointError
from tests.library.networks import Choices, batches, small

SECONDS = {"warmup": 1.0, "search": 4.0, "optimize": 2.0}


class Clock(Observer):
    """Time passes with the steps alone, 0.5 s each, until step `stop` of all."""

    def __init__(self, monkeypatch, stop=None):
        self.now, self.steps, self.stop = 1000.0, 0, stop
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def on_step(self, state):
        self.now, self.steps = self.now + 0.5, self.steps + 1
        if self.steps == self.stop:
            raise KeyboardInterrupt


def find(clock, model=None, **keywords):
    torch.manual_seed(1)
    config = small(**{"seconds": 40.0, "search_epochs": 2, "optimize_epochs": 3, **keywords.pop("changes", {})})
    loaders = batches(), batches(seed=1)
    return asose_fast.search(model or Choices(), loaders, config, observers=[clock], **keywords)


@pytest.fixture
def estimated(monkeypatch):
    monkeypatch.setattr(rehearsal, "rehearsed", lambda task, processes: Estimate(dict(SECONDS), 1.0))


def untimed(result):
    timed = ("seconds", "images_per_second", "health")
    return [{name: value for name, value in record.items() if name not in timed} for record in result.history]


def test_a_search_ends_in_its_time_and_goes_on_as_it_was_planned(estimated, monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    whole = find(clock)
    assert 40 * 0.85 < clock.now - 1000 + 1 <= 40
    assert any("planned" in record for record in whole.history)
    with pytest.raises(KeyboardInterrupt):
        find(Clock(monkeypatch, stop=clock.steps // 2), folder=tmp_path)
    monkeypatch.setattr(library, "plan_for", lambda *_: pytest.fail("A second plan!"))
    with pytest.raises(CheckpointError, match=r"seconds 40\.0 there, 50\.0 here"):
        find(Clock(monkeypatch), folder=tmp_path, changes={"seconds": 50.0})
    resumed = find(Clock(monkeypatch), folder=tmp_path)
    assert untimed(resumed) == untimed(whole)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor)


def test_a_rehearsal_leaves_the_model_as_it_is(monkeypatch):
    made = []

    def rehearsed(task, processes):
        before = copy.deepcopy(task.network.state_dict())
        estimate = timed(task, processes)
        assert all(torch.equal(before[name], tensor) for name, tensor in task.network.state_dict().items())
        made.append(isinstance(task, ModuleTask) and estimate)
        return estimate

    timed = rehearsal.rehearsed
    monkeypatch.setattr(rehearsal, "rehearsed", rehearsed)
    find(Clock(monkeypatch), changes={"seconds": 20.0})
    assert made[0].epochs.keys() == SECONDS.keys()
    assert min(made[0].epochs.values()) > 0


def test_a_schedule_of_ones_own_has_no_time_to_be_planned_for(monkeypatch):
    with pytest.raises(ValueError, match="seconds plans the phases of the config: leave out phases"):
        find(Clock(monkeypatch), phases=[PhaseSpec("search", 1)])
