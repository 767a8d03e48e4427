"""Where `python -m asose_fast.train` begins a run, what it keeps there, and what `--resume` takes."""

import shutil
import time

import pytest
import yaml

from asose_fast.store.run_folder import claimed
from asose_fast.train import main as train
from tests.helpers import contents, options, python, refused

SMALL = ["--epochs=1", "--batch_size=20", "--threads=1"]


def test_two_runs_of_one_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20250101-000000")
    assert train(options()) == 0
    assert train(options()) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        *("digits-20250101-000000", "digits-20250101-000000-2")
    ]
    for folder in (tmp_path / "runs").iterdir():
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_refused_run_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "device 'gpu'" in refused(capsys, train, *options(), "--device=gpu")
    assert "device 'gpu'" in refused(capsys, train, *options(), "--device=gpu", "--out=a/b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("space", ["chain", "stages", "darts", "nasbench201"])
def test_none_alone_is_no_space(tmp_path, capsys, space):
    words = options(space=space, candidates=("none",))
    assert "candidates must have another operation than none" in refused(capsys, train, *words, "--out", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_before_its_first_checkpoint_can_be_begun_again(tmp_path, monkeypatch):
    def fail(*_):
        raise IndexError("unforeseen")

    words = [*options(), "--out", str(tmp_path / "run")]
    for place in ("asose_fast.engine.state.shortcomings", "asose_fast.engine.trainer.Trainer.save"):
        with monkeypatch.context() as broken:
            broken.setattr(place, fail)
            with pytest.raises(IndexError, match="unforeseen"):
                train(words)
        assert list(tmp_path.iterdir()) == []
    assert train(words) == 0


def test_of_two_that_want_one_folder_one_says_so(tmp_path, capsys):
    with claimed(tmp_path / "run"):
        error = refused(capsys, train, *options(), "--out", tmp_path / "run")
        assert f"another command is writing {tmp_path / 'run'}: wait for its end, or name another" in error


def test_a_run_that_is_being_written_is_not_resumed(run, capsys):
    before = contents(run)
    with claimed(run):
        for arguments in (["--resume", run], [*options(), "--out", run, "--resume_if_there"]):
            assert f"another command is writing {run}" in refused(capsys, train, *arguments)
    assert contents(run) == before


def test_a_finished_run_without_its_checkpoints_is_kept(run, capsys):
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    for arguments in ([], ["--resume_if_there"]):
        error = refused(capsys, train, *options(seed=1), "--out", run, *arguments)
        assert f"{run} is not empty, it holds config.yaml, genotype.json, metrics.jsonl, model.safetensors, " in error
        assert "give another --out, or --overwrite to replace it" in error
    assert contents(run) == before


def test_files_of_the_users_own_are_kept(tmp_path, capsys):
    for name in ("config.yaml", "report.html"):
        (tmp_path / name).write_text("mine")
    assert "it holds config.yaml, report.html: give" in refused(capsys, train, *options(), "--out", tmp_path)
    assert {str(name): text for name, text in contents(tmp_path).items()} == {
        "config.yaml": b"mine",
        "report.html": b"mine",
    }


def test_overwrite_replaces_a_run_and_nothing_else(run, capsys):
    (run / "notes.txt").write_text("mine")
    (run / "checkpoints" / "epoch-0009-step-000000.pt").write_bytes(b"old")
    before = contents(run)
    assert "--overwrite to replace it" in refused(capsys, train, *options(seed=1), "--out", run)
    assert "device 'gpu'" in refused(capsys, train, *options(), "--device=gpu", "--out", run, "--overwrite")
    assert contents(run) == before
    assert train([*options(seed=1), "--out", str(run), "--overwrite"]) == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 1
    assert not (run / "checkpoints" / "epoch-0009-step-000000.pt").exists()
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_a_run_killed_before_its_first_checkpoint_is_begun_again(tmp_path):
    code = (
        "import os, signal\n"
        "from asose_fast.store import checkpoint\n"
        "from asose_fast.train import main\n"
        "checkpoint.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"main({[*options(), '--out', str(tmp_path / 'run')]!r})\n"
    )
    assert python("-c", code).returncode == -9
    assert (tmp_path / "run" / ".lock").exists()
    assert train([*options(), "--out", str(tmp_path / "run")]) == 0
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(
    "given",
    ["checkpoints", "checkpoints/last.pt", "checkpoints/epoch-0005-step-000000.pt", "config.yaml", "metrics.jsonl"],
)
def test_a_path_within_the_run_stands_for_the_run(run, given, capsys):
    model = (run / "model.safetensors").read_bytes()
    assert train(["--resume", str(run / given)]) == 0
    assert f"resuming {run} after 5 of 5 epochs" in capsys.readouterr().out
    assert (run / "model.safetensors").read_bytes() == model


def test_an_older_checkpoint_is_refused(run, capsys):
    for name in ("epoch-0004-step-000000.pt", "supernet.pt"):
        error = refused(capsys, train, "--resume", run / "checkpoints" / name)
        assert f"a run goes on from its newest checkpoint, and {run / 'checkpoints' / name} is another" in error
        assert f"give --resume {run}" in error


def test_a_file_of_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").touch()
    error = refused(capsys, train, "--resume", tmp_path / "config.yaml")
    assert "is of no run: give --resume the run folder, which holds checkpoints" in error
    assert "there is no checkpoint in" in refused(capsys, train, "--resume", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_an_edited_config_is_not_ignored(run, capsys):
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["optimize_epochs"], values["own"] = 50, "x"
    del values["strict"]
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    before = contents(run)
    for arguments in (["--resume", run], [*options(), "--out", run, "--resume_if_there"]):
        error = refused(capsys, train, *arguments)
        assert f"the run was begun with other settings than {run / 'config.yaml'} has: " in error
        assert "strict False there, missing here; " in error
        assert "optimize_epochs 1 there, 50 here" in error
        assert "own missing there, x here" in error
        assert f"Remove {run / 'config.yaml'}, and it is written anew" in error
    assert contents(run) == before


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"a: [", b"depth: 3"])
def test_a_damaged_config_is_named_and_one_that_is_missing_is_written_anew(run, content, capsys):
    whole = (run / "config.yaml").read_bytes()
    (run / "config.yaml").write_bytes(content)
    assert f"Remove {run / 'config.yaml'}, and it is written anew" in refused(capsys, train, "--resume", run)
    (run / "config.yaml").unlink()
    assert train(["--resume", str(run)]) == 0
    assert (run / "config.yaml").read_bytes() == whole
