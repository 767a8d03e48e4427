"""The console in its modes, and what TensorBoard gets."""

import io
import re

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asose_fast.engine.metric import Metric
from asose_fast.observe.console import ConsoleObserver
from asose_fast.observe.tensorboard import TensorBoardObserver
from asose_fast.terminal import make_console
from asose_fast.train import main
from tests.helpers import make_trainer, options


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run on a terminal, with TensorBoard: the trainer, what the terminal got, and the events."""
    folder, said = tmp_path_factory.mktemp("run"), io.StringIO()
    console = Console(file=said, force_terminal=True, width=200)
    trainer = make_trainer(folder, [ConsoleObserver(console), TensorBoardObserver(folder / "events", 0)])
    trainer.run()
    return trainer, said.getvalue(), EventAccumulator(str(folder / "events"), {"histograms": 0}).Reload()


def test_a_terminal_shows_what_is_left(watched):
    _, said, _ = watched
    assert re.search(r"search 3/5.*left 0:0\d, run 0:0\d", said)
    assert "\x1b[" in said


def test_tensorboard_gets_every_layer(watched):
    trainer, _, events = watched
    for name in ("entropy", "max_weight"):
        for layer in range(2):
            found = [e.value for e in events.Scalars(f"{name}_by_layer/{layer + 1:02d}")]
            assert found == pytest.approx([record[f"{name}_by_layer"][layer] for record in trainer.state.history])


@pytest.mark.parametrize(("kind", "valid"), [("accuracy", 0.25), ("score", 0.25), ("loss", -0.25)])
def test_tensorboard_calls_what_is_measured_by_its_name(watched, tmp_path, kind, valid):
    state = watched[0].state
    record = {**state.history[-1], **Metric(kind, "mine", "own").said, "train_loss": 0.5, "valid_accuracy": 0.25}
    TensorBoardObserver(tmp_path, 0).on_epoch_end(state, record)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars(f"valid_{kind}")] == [valid]
    assert [event.value for event in events.Scalars("train_loss")] == [0.5]
    assert ("valid_accuracy" in events.Tags()["scalars"]) == (kind == "accuracy")


def test_tensorboard_gets_alpha_while_it_moves(watched):
    trainer, _, events = watched
    assert events.Tags()["histograms"] == ["alpha/01", "alpha/02"]
    for layer, row in enumerate(trainer.state.selector.logits().detach(), start=1):
        found = events.Histograms(f"alpha/{layer:02d}")
        assert [event.step for event in found] == [1, 2, 3, 4]
        last = found[-1].histogram_value
        assert (last.num, last.min, last.max) == (4, pytest.approx(float(row.min())), pytest.approx(float(row.max())))


@pytest.mark.parametrize("words", [["--quiet"], ["--console=quiet"], ["--console", "quiet"]])
def test_quiet(tmp_path, capsys, words):
    torch.set_num_threads(1)
    assert (
        main([*options(epochs=4, warmup="skip", alpha_learning_rate=1.0), *words, "--out", str(tmp_path / "run")]) == 0
    )
    assert main([*words, "--resume", str(tmp_path / "run")]) == 0
    assert main(["--resume", str(tmp_path / "run"), *words]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["--quiet", "--resume", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_plain_has_no_codes_even_where_colours_are_forced(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main([*options(epochs=4), "--plain", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "test accuracy" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("mode", ["auto", "plain", "quiet"])
def test_only_the_process_that_speaks_does(mode, capsys):
    make_console(mode, speaks=False).print("words")
    assert capsys.readouterr().out == ""
    make_console(mode).print("[red]words[/]")
    assert capsys.readouterr().out == ("" if mode == "quiet" else "[red]words[/]\n")


def test_an_unknown_mode_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--console", "loud"])
    assert "console" in capsys.readouterr().err
