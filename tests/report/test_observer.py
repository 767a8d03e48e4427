"""The report while a run goes on: there after every epoch, complete in the end, and never in the run's way."""

import os
import signal

import pytest

from asose_fast.engine import result
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.processes import ProcessLostError
from asose_fast.observe.metrics import MetricsObserver
from asose_fast.report import page
from asose_fast.report.observer import ReportObserver
from asose_fast.store import checkpoint
from tests.helpers import OnStep, make_trainer
from tests.report.runs import Page

TIMES = ("seconds", "images_per_second", "health")


class OnEpoch(OnStep):
    """Calls `action(state)` after every epoch."""

    def __init__(self, action):
        self.on_epoch_end = lambda state, record: action(state)

    def on_step(self, state): ...


def observers(folder, warnings, every=0.0):
    return [MetricsObserver(folder / "metrics.jsonl"), ReportObserver(folder, warnings.append, every)]


def text(folder):
    return Page((folder / "report.html").read_text()).text


def without_times(history):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in history]


@pytest.fixture
def undisturbed(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("run"))
    trainer.run()
    return without_times(trainer.state.history)


def test_every_epoch_is_shown_and_the_run_is_what_it_would_be(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr("asose_fast.report.observer.SHARE", 1e9)
    warnings, said = [], []
    report = [*observers(tmp_path, warnings), OnEpoch(lambda _: said.append(text(tmp_path)))]
    trainer = make_trainer(tmp_path, report)
    with report[1].to_the_end(trainer.state):
        trainer.run()
        result.write_result(trainer.state, trainer.state.data, tmp_path)
    for epoch, words in enumerate(said[:4], start=1):
        assert f"Running when this was written: {epoch} of 5 epochs" in words
        assert "Probabilities of the candidates" in words
    assert "Finished." in text(tmp_path)
    assert "The derived network" in [a["aria-label"] for a in Page((tmp_path / "report.html").read_text()).named("svg")]
    assert "digest of the data" in text(tmp_path)
    assert warnings == []
    assert without_times(trainer.state.history) == undisturbed


def test_a_page_of_a_running_search_says_by_when_the_next_is_due(tmp_path, monkeypatch):
    monkeypatch.setattr("asose_fast.report.observer.SHARE", 1e9)
    said = []
    report = ReportObserver(tmp_path, said.append, every=30.0)
    due = []
    report._write = lambda found: due.append(found())
    trainer = make_trainer(tmp_path, [report])
    trainer.run()
    (run,) = due
    assert 300 <= run.next_within < 600
    assert run.due_text > run.written_text
    assert f"If no newer one is here by {run.due_text}, the run was killed" in Page(page.render(run)).text
    run.state, run.next_within = "finished", None
    assert "was killed" not in Page(page.render(run)).text


def test_it_is_written_seldom(tmp_path):
    trainer = make_trainer(tmp_path, observers(tmp_path, [], every=1000.0))
    trainer.run()
    assert "1 of 5 epochs" in text(tmp_path)


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path, undisturbed, monkeypatch):
    def full(path, content):
        if path.name == "report.html":
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        try:
            write(path, content)
        finally:
            monkeypatch.setattr(os, "fsync", sync)

    write, sync = checkpoint.write_atomically, os.fsync
    monkeypatch.setattr("asose_fast.report.observer.write_atomically", full)
    monkeypatch.setattr("asose_fast.report.observer.SHARE", 1e9)
    warnings = []
    trainer = make_trainer(tmp_path, observers(tmp_path, warnings))
    trainer.run()
    (warning,) = warnings
    assert warning.startswith(
        f"there is no new report: cannot write {tmp_path / 'report.html'}: No space left on device"
    )
    assert not list(tmp_path.glob("*report.html*"))
    assert not list(tmp_path.glob(".report.html*"))
    assert without_times(trainer.state.history) == undisturbed


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError(), MemoryError(), KeyError("x")])
def test_a_report_that_cannot_be_drawn_does_not_end_the_run(tmp_path, monkeypatch, error):
    monkeypatch.setattr(page, "render", lambda _: (_ for _ in ()).throw(error))
    warnings = []
    trainer = make_trainer(tmp_path, observers(tmp_path, warnings))
    trainer.state.progress.epoch = 4
    trainer.state.history = [{"phase": "search", "seconds": 1.0, "images_per_second": 1.0}] * 4
    trainer.run()
    assert len(warnings) == 1


def test_a_run_that_is_stopped_and_resumed_has_one_report_of_all(tmp_path, undisturbed):
    def stop(state):
        if state.progress.epoch == 2 and state.progress.step == 2:
            state.stop(signal.SIGTERM)

    warnings = []
    report = observers(tmp_path, warnings)
    trainer = make_trainer(tmp_path, [*report, OnStep(stop)])
    with pytest.raises(InterruptedRunError), report[1].to_the_end(trainer.state):
        trainer.run()
    assert "Not finished" in text(tmp_path)
    report = observers(tmp_path, warnings)
    again = make_trainer(tmp_path, report)
    again.state.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "last.pt"))
    with report[1].to_the_end(again.state):
        again.run()
        result.write_result(again.state, again.state.data, tmp_path)
    assert without_times(again.state.history) == undisturbed
    assert [f"{epoch} {r['phase']}" in text(tmp_path) for epoch, r in enumerate(again.state.history, 1)] == [True] * 5
    assert warnings == []


def test_an_error_of_the_run_is_not_covered_by_one_of_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "render", lambda _: (_ for _ in ()).throw(ValueError))
    warnings = []
    trainer = make_trainer(tmp_path)
    with pytest.raises(KeyError, match="the run"), ReportObserver(tmp_path, warnings.append).to_the_end(trainer.state):
        raise KeyError("the run")
    assert warnings == []


def test_a_lost_process_is_told_of_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "render", lambda _: pytest.fail("a report was drawn"))
    with pytest.raises(ProcessLostError), ReportObserver(tmp_path, print).to_the_end(make_trainer(tmp_path).state):
        raise ProcessLostError("gone")
