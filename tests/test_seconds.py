"""`--seconds` plans the epochs of a run and of a training for a time: by a planted clock, which steps alone move on."""

import json
import os
import signal
import time

import pytest
import yaml

from asose_fast import retrain as retraining
from asose_fast import train as training
from asose_fast.engine import rehearsal
from asose_fast.engine.loop import Loop
from asose_fast.engine.rehearsal import Estimate
from asose_fast.engine.retrainer import Retrainer
from asose_fast.engine.trainer import Trainer
from asose_fast.retrain import main as retrain
from asose_fast.train import main as train
from tests.helpers import options, refused
from tests.report.runs import Page

SECONDS = {"warmup": 1.0, "search": 4.0, "growth": 4.0, "optimize": 2.0}
"""An epoch is estimated to take so long."""
STEPS = {"warmup": 0.25, "search": 1.5, "growth": 1.5, "optimize": 0.5, "retrain": 0.25}
"""A step takes so long, of five or, in a training, six an epoch."""


WORDS = [*options(optimize_epochs=4), "--seconds=40"]


def planted(monkeypatch):
    """Returns a list that holds what the time is. A step of an epoch moves it on."""
    now = [1000.0]

    def moved(step):
        def moving(self, phase, x, y):
            step(self, phase, x, y)
            now[0] += STEPS[phase.name]

        return moving

    for trainer in (Trainer, Retrainer):
        monkeypatch.setattr(trainer, "_step", moved(trainer._step))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(rehearsal, "rehearsed", lambda task, processes: Estimate(dict(SECONDS), 1.0))
    monkeypatch.setattr(retraining, "seconds_per_epoch", lambda *_: 1.0)
    return now


@pytest.fixture
def clock(monkeypatch):
    return planted(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of WORDS that was not stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patched:
        planted(patched)
        assert train([*WORDS, "--out", str(folder)]) == 0
    return folder


def stopped(monkeypatch, main, words, epoch, step=1):
    """The command, told to stop after a step of an epoch."""

    def due(self):
        progress = self.state.progress
        if (progress.epoch, progress.step) == (epoch, step):
            os.kill(os.getpid(), signal.SIGTERM)

    save = Loop._save_if_due
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_save_if_due", lambda self, phase: (due(self), save(self, phase))[1])
        assert main(words) == 128 + signal.SIGTERM


def records(folder):
    timed = ("seconds", "images_per_second", "health")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def settings(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def assert_same(folder, whole):
    for name in ("model.safetensors", "config.yaml"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert records(folder) == records(whole)


def test_a_run_is_planned_for_its_time_and_ends_in_it(clock, tmp_path, capsys):
    folder = tmp_path / "run"
    began = clock[0]
    assert train([*WORDS, "--out", str(folder)]) == 0
    assert 40 * 0.85 < clock[0] + 1 - began <= 40
    found, config = records(folder), settings(folder)
    said = capsys.readouterr().out
    assert "planned for 0:40, by a few steps of each kind: 2 warmup, 3 search, 2 growth, 7 optimize epochs" in said
    plans = [record["planned"] for record in found if "planned" in record]
    assert plans
    assert f"planned again for the time that is left: {plans[-1]['warmup']} warmup" in said
    assert {f"{name}_epochs": epochs for name, epochs in plans[-1].items()}.items() <= config.items()
    assert (config["epochs"], config["seconds"]) == (None, 40.0)
    assert len(found) == sum(plans[-1].values())
    assert found[-1]["learning_rate"] < found[-2]["learning_rate"] < 0.025
    assert found[-1]["elapsed"] == pytest.approx(clock[0] - began)
    assert "planned again for the time that is left" in (folder / "report.html").read_text()


@pytest.mark.parametrize("epoch", [0, 2, 6])
def test_a_stopped_run_goes_on_with_what_was_decided(clock, whole, tmp_path, monkeypatch, epoch):
    folder = tmp_path / "run"
    stopped(monkeypatch, train, [*WORDS, "--out", str(folder)], epoch)
    there = settings(folder)
    total = sum(there[f"{name}_epochs"] for name in SECONDS)
    assert f"Not finished: {epoch} of {total} epochs" in Page((folder / "report.html").read_text()).text
    clock[0] += 1e6
    monkeypatch.setattr(training, "plan_for", lambda *_: pytest.fail("A second plan!"))
    resumed = {0: [*WORDS, "--out", str(folder), "--resume_if_there"]}.get(epoch, ["--resume", str(folder)])
    assert train(resumed) == 0
    assert_same(folder, whole)


def test_a_run_killed_between_settings_and_checkpoint_goes_on(clock, whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save = Loop.save

    def killed(self, name):
        if self.state.history and "planned" in self.state.history[-1]:
            raise KeyboardInterrupt
        save(self, name)

    with monkeypatch.context() as broken:
        broken.setattr(Loop, "save", killed)
        assert train([*WORDS, "--out", str(folder)]) == 128 + signal.SIGINT
    assert train(["--resume", str(folder)]) == 0
    assert_same(folder, whole)


def test_another_time_or_other_proportions_are_another_run(clock, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--seconds=20", "--out", str(folder), "--resume_if_there"]
    assert train([*options(), *words]) == 0
    assert train([*options(), *words]) == 0
    error = refused(capsys, train, *options(warmup_epochs=2), *words)
    assert "warmup_epochs 1 there, 2 here" in error
    assert "seconds 20.0 there, 40.0 here" in refused(capsys, train, *options(), "--seconds=40", *words[1:])


def test_a_longer_last_phase_has_no_time_to_keep(clock, tmp_path):
    folder = tmp_path / "run"
    assert train([*options(), "--seconds=20", "--out", str(folder)]) == 0
    longer = settings(folder)["optimize_epochs"] + 2
    assert train(["--resume", str(folder), f"--optimize_epochs={longer}"]) == 0
    assert (settings(folder)["optimize_epochs"], settings(folder)["seconds"]) == (longer, None)
    assert records(folder)[-1]["epoch"] == len(records(folder))
    assert "elapsed" not in records(folder)[-1]


def test_too_little_time_and_two_lengths_are_refused_before_anything_is_written(clock, tmp_path, capsys, finished):
    folder = tmp_path / "run"
    error = refused(capsys, train, *options(), "--seconds=5", "--out", folder)
    assert "seconds must be at least 12 here, got 5" in error
    error = refused(capsys, train, *options(), "--seconds=50", "--epochs=9", "--out", folder)
    assert "epochs and seconds say in two ways how long a run is" in error
    error = refused(capsys, retrain, finished, "--seconds=1.5", "--out", folder)
    assert "seconds must be at least 4 here, got 1.5" in error
    error = refused(capsys, retrain, finished, "--seconds=50", "--epochs=9", "--out", folder)
    assert "--epochs and --seconds say in two ways how long a training is" in error
    assert not folder.exists()


def test_a_training_takes_its_time_and_goes_on_as_if_it_had_not_been_stopped(clock, tmp_path, monkeypatch, finished):
    folder, whole = tmp_path / "again", tmp_path / "whole"
    words, began = [str(finished), "--seconds=30", "--drop_path=0.2"], clock[0]
    assert retrain([*words, "--out", str(whole)]) == 0
    assert 30 * 0.85 < clock[0] + 2 - began <= 30
    found = records(whole)
    assert settings(whole)["epochs"] == len(found)
    assert found[0]["planned"] == {"retrain": len(found)}
    stopped(monkeypatch, retrain, [*words, "--out", str(folder)], 3)
    clock[0] += 1e6
    assert retrain([*words, "--out", str(folder)]) == 0
    assert_same(folder, whole)
    assert retrain([str(finished), "--seconds=31", "--drop_path=0.2", "--out", str(folder)]) == 2
