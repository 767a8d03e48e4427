"""Files that a user hands over: what is no regular file, too large, or an alias bomb gets one error, and soon."""

import itertools
import json
import os
import pickle
import shutil
import time

import pytest
import torch

from asose_fast import files, retrain
from asose_fast.report.__main__ import main as report
from asose_fast.report.run import read as read_run
from asose_fast.space import BlockSpec
from asose_fast.store import checkpoint, derived
from asose_fast.store.checkpoint import DamagedCheckpointError
from asose_fast.train import main as train
from tests.export.networks import make_derived, make_run
from tests.helpers import make_config, make_trainer
from tests.report.runs import records, write_run

NAMES = "abcdefghij"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise(NAMES)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n" for before, name in itertools.pairwise(NAMES)
)


@pytest.fixture(autouse=True)
def soon():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 60


@pytest.fixture
def folder(tmp_path):
    config = make_config()
    folder = write_run(tmp_path / "run", records(config), config, test_accuracy=0.5)
    make_run(folder, make_derived([BlockSpec(("none",), 4, 4)], 1, 10), 8)
    make_trainer(folder).save("last")
    return folder


def spoil(path, how):
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(files.MOST_TENSORS + 1)


WORDS = {"pipe": "named pipe", "folder": "folder", "sparse": "bytes, and can have"}


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "genotype.json", "metrics.jsonl", "last.pt"])
def test_a_report_names_a_file_that_cannot_be_read(folder, name, how, capsys):
    if name == "last.pt":
        for path in (folder / "checkpoints").glob("epoch-*.pt"):
            path.unlink()
    spoil(folder / "checkpoints" / name if name == "last.pt" else folder / name, how)
    assert report([str(folder)]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if name in line)
    assert "cannot be read" in line
    assert WORDS[how] in line


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("name", [derived.GENOTYPE, derived.WEIGHTS])
def test_a_result_that_is_no_file_is_refused(folder, name, how):
    spoil(folder / name, how)
    with pytest.raises(OSError, match=rf"{name} cannot be read: it .*{WORDS[how]}"):
        derived.load(folder)


@pytest.mark.parametrize("how", WORDS)
def test_a_checkpoint_that_is_no_file_counts_as_damaged(folder, how):
    path = folder / "checkpoints" / "last.pt"
    spoil(path, how)
    with pytest.raises(DamagedCheckpointError, match=rf"last\.pt cannot be read: it .*{WORDS[how]}"):
        checkpoint.load(path)


@pytest.mark.parametrize("how", WORDS)
def test_a_text_to_retrain_that_is_no_file_is_refused(tmp_path, how, capsys):
    path = tmp_path / "genotype.txt"
    path.touch()
    spoil(path, how)
    assert retrain.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert "genotype.txt" in error if how != "folder" else "holds no finished run" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("bomb", [BOMB, MERGED, "a: &a [1, *a]"])
def test_an_alias_bomb_is_refused(folder, tmp_path, bomb, capsys):
    (folder / "config.yaml").write_text(bomb)
    run = read_run(folder)
    assert "config.yaml is damaged: it holds more than 100,000 values, its aliases followed" in run.problems
    assert report([str(folder)]) == 0
    with pytest.raises(ValueError, match=r"config\.yaml is damaged or no YAML \(it holds more than 100,000 values"):
        files.read_settings(folder / "config.yaml")
    capsys.readouterr()
    for command in (train, retrain.main):
        assert command([*([str(folder)] if command is not train else []), "--config", str(folder / "config.yaml")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: the file of --config cannot be read as YAML: it holds more than 100,000 values")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"!!timestamp x",
        b"!!int ''",
        b"!!bool z",
        b"x: [" * 9000,
        b"a: 2024-99-99",
        b"\x80",
        b"a: @",
        b"a: 1\n---\nb: 2",
    ],
)
def test_what_is_no_yaml_is_one_error(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged or no YAML \(.+\)$"):
        files.read_settings(path)


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"3", b"1: 2"])
def test_settings_are_names_with_values(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged: it does not hold names with values"):
        files.read_settings(path)


def test_aliases_that_a_user_writes_are_followed(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: &list [none, skip_connect]\nb: *list\n")
    assert files.read_settings(path) == {"a": ["none", "skip_connect"], "b": ["none", "skip_connect"]}


def test_alpha_of_any_number_of_rows_is_refused(folder, capsys):
    path = folder / "checkpoints" / "last.pt"
    state = checkpoint.load(path)
    names = len(state["selector"]["candidates"])
    for alpha in (torch.zeros(1, 1).expand(10**9, names), torch.zeros(1, 1).expand(2, 10**9)):
        state["selector"]["alpha"] = alpha
        for checkpoints in (folder / "checkpoints").glob("*.pt"):
            checkpoint.save(checkpoints, state)
        assert path.stat().st_size < 10**6
        (problem,) = read_run(folder).problems
        assert f"alpha has {len(alpha)} rows of {alpha.shape[1]}, for {names} candidates" in problem
        assert train(["--resume", str(folder)]) == 2
        assert f"alpha has {len(alpha)} rows" in capsys.readouterr().err


def test_the_error_goes_through_pickle_as_from_process_to_process(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="named pipe") as caught:
        files.read(tmp_path / "pipe", 1)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_whole_files_are_read(tmp_path):
    path = tmp_path / "values.json"
    path.write_text(json.dumps({"a": 1}))
    assert files.read(path, 8) == b'{"a": 1}'
    assert files.read_json(path) == {"a": 1}
    with pytest.raises(OSError, match="it has 8 bytes, and can have 7 at most"):
        files.read(path, 7)
    shutil.copy(path, tmp_path / "other.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "other.json")
    assert files.read_json(tmp_path / "link.json") == {"a": 1}
