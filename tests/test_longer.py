"""`--resume RUN --optimize_epochs N` trains the network of a run longer."""

import json
import math
import os
import signal

import pytest
import yaml

from asose_fast.config import Config
from asose_fast.engine import resume
from asose_fast.engine.phases import plan
from asose_fast.engine.trainer import Trainer
from asose_fast.train import main as train
from tests.helpers import contents, make_config, options, refused
from tests.report.runs import Page


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def settings(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def stopped(monkeypatch, words, at):
    """The run of these options, told to stop after the first step of epoch `at`."""
    step = Trainer._step

    def interrupted(self, phase, x, y):
        step(self, phase, x, y)
        if (self.state.progress.epoch, self.state.progress.step) == (at, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", interrupted)
        assert train(words) == 128 + signal.SIGTERM


def test_a_finished_run_goes_on_along_the_longer_cosine(run):
    before, told = metrics(run), json.loads((run / "summary.json").read_text())["shortcomings"]
    assert train(["--resume", str(run), "--optimize_epochs=3"]) == 0
    after = metrics(run)
    assert len(after) == 7
    assert after[4].pop("lengthened") == {"from": 1, "to": 3}
    assert after[:5] == before
    for record, epoch in zip(after[5:], (1, 2), strict=True):
        share = (epoch + 1) / 3
        assert record["learning_rate"] == pytest.approx(0.025 * (1 + math.cos(math.pi * share)) / 2)
    assert settings(run)["optimize_epochs"] == 3
    assert "5 the last phase was made longer, from 1 to 3 epochs" in Page((run / "report.html").read_text()).text
    summary = json.loads((run / "summary.json").read_text())
    assert summary["phases"]["optimize"]["epochs"] == 3
    assert summary["shortcomings"] == told  # of the alpha that the run began with
    assert summary["valid_accuracy"] == max(record["valid_accuracy"] for record in after[4:])
    path = before[-1]["path"]
    assert summary["operations"] == [name for i, name in enumerate(path) if i not in summary["left_out"]]
    model = (run / "model.safetensors").read_bytes()
    assert train(["--resume", str(run), "--optimize_epochs=3"]) == 0  # the same command once more does nothing more
    assert (run / "model.safetensors").read_bytes() == model
    assert len(metrics(run)) == 7


def test_a_run_that_is_stopped_before_the_phase_ends_as_if_begun_so(tmp_path, monkeypatch):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    stopped(monkeypatch, [*options(), "--out", str(folder)], at=1)
    assert train(["--resume", str(folder), "--optimize-epochs", "3"]) == 0
    assert train([*options(optimize_epochs=3), "--out", str(whole)]) == 0
    for name in ("model.safetensors", "config.yaml"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_longer_run_that_is_stopped_goes_on_as_the_longer_one(run, tmp_path, monkeypatch):
    words = ["--resume", str(run), "--optimize_epochs=3"]
    stopped(monkeypatch, words, at=5)
    assert not (run / "summary.json").exists()
    assert settings(run)["optimize_epochs"] == 3
    assert train(["--resume", str(run)]) == 0
    whole = tmp_path / "whole"
    assert train([*options(), "--out", str(whole)]) == 0
    assert train(["--resume", str(whole), "--optimize_epochs=3"]) == 0
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_run_killed_between_checkpoint_and_settings_goes_on(run, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    for place in ("asose_fast.engine.loop.Loop._write", "asose_fast.train.write_settings"):
        with monkeypatch.context() as broken:
            broken.setattr(place, killed)
            assert train(["--resume", str(run), "--optimize_epochs=3"]) == 128 + signal.SIGINT
        assert train(["--resume", str(run)]) == 0
    assert len(metrics(run)) == 7


def test_fewer_epochs_and_other_options_are_refused(run, capsys):
    assert train(["--resume", str(run), "--optimize_epochs=2"]) == 0
    before = contents(run)
    error = refused(capsys, train, "--resume", run, "--optimize_epochs=1")
    assert "the phase optimize has 2 epochs, and can be made longer only" in error
    assert "--optimize_epochs for a longer last phase" in refused(capsys, train, "--resume", run, "--epochs=20")
    assert contents(run) == before


def test_phases_that_were_rescaled_stay_so():
    config = make_config(epochs=11)
    longer = resume.lengthened(config, 9)
    assert longer.epochs is None
    assert plan(longer)[:-1] == plan(config)[:-1]
    assert plan(longer)[-1].epochs == 9
    assert resume.lengthened(Config(), 20) == Config()
