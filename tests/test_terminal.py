"""Nothing that is printed ends a run, whatever standard output takes, and what users named is printed as it is."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from asose_fast import train
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.phases import PhaseSpec
from asose_fast.observe.console import ConsoleObserver, health_table
from asose_fast.terminal import make_console, unfailing_streams
from tests.helpers import ROOT, make_trainer, options
from tests.processes import Command

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "r[lr=0.1] :cat: é[/x]"
SHORT = options(search_epochs=1, warmup="skip", alpha_learning_rate=1)  # a plan that is warned of by nothing


def run(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment):
    """A module of asose_fast as a command, with what it wrote in bytes."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=stdout,
        stderr=stderr,
        timeout=300,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "C locale"])
def test_a_search_ends_whatever_the_encoding(tmp_path, encoding):
    folder = tmp_path / NAME
    environment = C_LOCALE if encoding == "C locale" else {"PYTHONIOENCODING": encoding}
    words = ("asose_fast.train", *SHORT, "--out", str(folder))
    # A locale is that of an interpreter from its start; an encoding can be taken by a copy of one.
    done = run(*words, **environment) if encoding == "C locale" else Command(*words, **environment).wait()
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(b"warning: no events for TensorBoard: " if encoding == "C locale" else b"")
    assert done.stderr.count(b"\n") == (encoding == "C locale")
    # In the C locale a path is the bytes that it was given as; "replace" stands in for what an encoding lacks.
    named = str(folder).encode("utf-8" if encoding == "C locale" else encoding, "replace")
    assert b"run folder: " + named in done.stdout
    search = next(line for line in done.stdout.splitlines() if line.split()[1:2] == [b"search"])
    assert search.count(b"+") + search.count(b"!") == 6  # a mark for each indicator
    assert (folder / "summary.json").exists()


def test_every_command_prints_a_name_that_is_no_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"run\xff")
    for command in (
        ("train", *SHORT, "--out"),
        ("derive",),
        ("report",),
        ("export", "--format", "module"),
        ("retrain", "--epochs", "1", "--batch_size", "20"),
    ):
        module = f"asose_fast.{command[0]}" + ".__main__" * (command[0] in ("report", "export"))
        done = Command(module, *command[1:], str(folder), PYTHONIOENCODING="ascii:strict").wait()
        assert done.returncode == 0, done.stderr
        assert str(tmp_path).encode() + b"/run?" in done.stdout
        if command[0] == "train":
            assert done.stderr.startswith(b"warning: no events for TensorBoard: the name of ")
            assert done.stderr.count(b"\n") == 1
        else:
            assert done.stderr == b""


@pytest.mark.parametrize("command", ["report", "train --resume"])
def test_an_error_about_a_name_that_is_no_utf_8_is_an_error(tmp_path, command):
    name, *words = command.split()
    done = run(f"asose_fast.{name}", *words, str(tmp_path / os.fsdecode(b"none\xff")), PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"none" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_info_is_printed_in_ascii(words):
    done = run("asose_fast.info", *words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mixed_sum" in done.stdout


@pytest.mark.parametrize("command", ["info", "info --json", "train --help", "report --help"])
def test_a_reader_that_has_gone_is_no_error(command):
    name, *words = command.split()
    read, write = os.pipe()
    os.close(read)
    done = run(f"asose_fast.{name}", *words, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("lost", ["reader", "disk"])
def test_a_search_goes_on_when_nothing_can_be_printed(tmp_path, lost):
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full:
        stream = write if lost == "reader" else full
        done = run("asose_fast.train", *SHORT, "--out", str(tmp_path / "run"), stdout=stream, stderr=stream)
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(("words", "status"), [((*SHORT, "--out", "run"), 0), (("--nonsense",), 2)])
def test_closed_streams_are_no_error(tmp_path, words, status):
    command = [sys.executable, "-m", "asose_fast.train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command], cwd=tmp_path, env=environment, timeout=300)
    assert closed.returncode == status
    assert (tmp_path / "run" / "summary.json").exists() == (status == 0)


def test_the_streams_are_given_back():
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), unfailing_streams():
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


def test_a_stream_that_was_closed_takes_what_is_written(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    monkeypatch.setattr("sys.stderr", None)
    make_console().print("words")
    with unfailing_streams():
        print("words")
        sys.stderr.write("words")


@pytest.mark.parametrize("text", ["r[lr=0.1]", "runs/[/x]", "imagefolder:cat", ":cat:", "[bold]x[/]", "a 1 'b'"])
def test_no_text_is_markup_or_an_emoji_or_coloured(text, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_console().print(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("console", [make_console, Console])
def test_names_of_phases_and_events_are_shown_as_they_are(tmp_path, console, capsys):
    """In a console of the user's own too, which takes texts for markup."""
    phase = PhaseSpec("[/x] :cat:", 1)
    observer = ConsoleObserver(console())
    state = make_trainer(tmp_path).state
    observer.on_epoch_start(state, phase)
    record = {
        **dict.fromkeys(("epoch", "train_loss", "valid_accuracy", "temperature", "images_per_second"), 1),
        "phase": "search",
        "health": [{"value": 1, "ok": ok} for ok in (True, False, True, False, True)],
        "path": [],
        "growth": {"kind": "none", "skipped": {"branch": "[/y] :dog:"}},
    }
    observer.on_epoch_end(state, record)
    said = capsys.readouterr().out
    assert "[/x] :cat:: 1 epochs" in said
    assert "not grown branch: [/y] :dog:" in said


@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", "✓✗"), ("ascii", "+!"), ("cp1252", "+!"), ("gbk", "+!")])
def test_the_marks_of_the_indicators_are_in_the_encoding(tmp_path, encoding, marks, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    indicators = [{"name": "[x]", "value": 1, "bound": "[/y]", "ok": ok} for ok in (True, False, True, True, True)]
    record = {
        **dict.fromkeys(("epoch", "train_loss", "valid_accuracy", "temperature", "images_per_second"), 1),
        **{"phase": "search", "health": indicators, "path": []},
    }
    console = make_console()
    ConsoleObserver(console).on_epoch_end(make_trainer(tmp_path).state, record)
    console.print(health_table(indicators))
    said = raw.getvalue().decode(encoding)
    assert [letter for letter in said.splitlines()[0] if letter in marks] == [marks[0], marks[1], *marks[0] * 3]
    assert "[x]" in said
    assert "[/y]" in said


def test_the_command_to_resume_can_be_pasted(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise InterruptedRunError(signal.SIGINT, "stopped")

    torch.set_num_threads(1)
    monkeypatch.setattr(train, "_run", interrupted)
    folder = tmp_path / "my r[lr=0.1]"
    assert train.main([*SHORT, "--out", str(folder)]) == 130
    assert capsys.readouterr().out == f"stopped. To go on: python -m asose_fast.train --resume '{folder}'\n"


def test_a_run_folder_may_be_in_the_home_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(train, "_run", lambda config, folder, *_: print(folder) or 0)
    assert train.main([*SHORT, "--out=~/run"]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "run"
