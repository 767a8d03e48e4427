"""`derive`, `retrain`, `export`, `report`: what they keep, what they read, and a disk that is full."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml

from asose_fast import derive, export, retrain
from asose_fast.export.__main__ import main as export_main
from asose_fast.report.__main__ import main as report
from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.store.run_folder import claimed, claimed_file
from asose_fast.train import main as train
from tests.helpers import contents, options, refused

SMALL = ["--epochs=1", "--batch_size=20", "--threads=1"]


def test_derive_the_run_itself_is_never_replaced(run, capsys):
    before = contents(run)
    for out in (run, f"{run}/../run/", run / "checkpoints" / ".."):
        for more in ([], ["--overwrite"]):
            error = refused(capsys, derive.main, run, "--out", out, *more)
            assert "is the run itself, whose trained network would be lost: give another folder" in error
    assert contents(run) == before


def test_derive_what_is_there_is_kept_unless_it_may_be_replaced(run, capsys):
    assert derive.main([str(run)]) == 0
    before = contents(run)
    assert "derived-argmax is not empty, it holds config.yaml" in refused(capsys, derive.main, run)
    (run / "derived-argmax" / "summary.json").write_text("of another network")
    assert "max_parameters = 1 (the least" in refused(capsys, derive.main, run, "--overwrite", "--max_parameters=1")
    assert (run / "derived-argmax" / "summary.json").exists()
    assert derive.main([str(run), "--overwrite"]) == 0
    assert contents(run) == before


def test_derive_of_two_one_says_so_and_a_refused_one_leaves_nothing(run, tmp_path, capsys):
    with claimed(tmp_path / "out"):
        assert "another command is writing" in refused(capsys, derive.main, run, "--out", tmp_path / "out")
    assert "max_flops = 1 (the least" in refused(
        capsys, derive.main, run, "--max_flops=1", "--out", tmp_path / "out" / "deep"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--max_flops", "--max_parameters", "--among"])
@pytest.mark.parametrize("value", ["0", "-3", str(10**60), "1" * 400])
def test_derive_bounds_are_bounded(run, option, value, capsys):
    method = ["--method", "validation"] if option == "--among" else []
    error = refused(capsys, derive.main, run, *method, f"{option}={value}")
    assert f"error: {option[2:]} must be at least 1, at most " in error
    assert len(error) < 300


def test_derive_a_bound_is_named_as_it_was_given(finished, tmp_path, capsys):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    state = checkpoint.load(run / "checkpoints" / "supernet.pt")
    state["config"]["derive_max_parameters"] = 10**6
    checkpoint.save(run / "checkpoints" / "supernet.pt", state)
    error = refused(capsys, derive.main, run, "--max_flops", 1)
    assert "within derive_max_parameters = 1,000,000 (the least is " in error
    assert " and max_flops = 1 (the least is " in error


@pytest.mark.parametrize("damage", [{"config": None}, {"config": {"a": 1}}, {"progress": None}, {"selector": {}}])
@pytest.mark.parametrize("name", ["supernet.pt", "last.pt"])
def test_derive_a_checkpoint_of_something_else_is_one_error(run, damage, name, capsys):
    state = checkpoint.load(run / "checkpoints" / "supernet.pt")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    checkpoint.save(run / "checkpoints" / name, {**state, **damage})
    assert f"cannot go on from {run / 'checkpoints' / name}: " in refused(capsys, derive.main, run)


def test_retrain_two_of_one_second_have_a_folder_each(run, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    for _ in range(2):
        assert retrain.main([str(run), *SMALL]) == 0
    assert {"retrain-now", "retrain-now-2"} <= set(os.listdir(run))
    assert not (run / "retrain-now" / ".lock").exists()


def test_retrain_it_goes_on_with_its_own_and_keeps_everything_else(run, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(run), "--out", str(out), *SMALL]
    assert retrain.main(command) == 0
    assert retrain.main(command) == 0
    assert "going on after 1 of 1 epochs" in capsys.readouterr().out
    shutil.rmtree(out / "checkpoints")
    before = contents(out)
    assert "is not empty, it holds config.yaml, genotype.json" in refused(capsys, retrain.main, *command)
    assert contents(out) == before
    assert retrain.main([*command, "--seed=3", "--overwrite"]) == 0
    assert json.loads((out / "summary.json").read_text())["settings"]["seed"] == 3
    assert retrain.main([*command, "--seed=4", "--overwrite"]) == 0
    assert "going on" not in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["settings"]["seed"] == 4


def test_retrain_the_run_itself_is_never_replaced(run, capsys):
    before = contents(run)
    for more in ([], ["--overwrite"]):
        error = refused(capsys, retrain.main, run, "--out", run, *SMALL, *more)
        assert "is the run whose architecture is trained: give another folder" in error
    assert contents(run) == before


def test_retrain_of_two_one_says_so(run, tmp_path, capsys):
    with claimed(tmp_path / "out"):
        assert "another command is writing" in refused(capsys, retrain.main, run, "--out", tmp_path / "out", *SMALL)


def test_retrain_a_checkpoint_of_something_else_is_one_error(run, tmp_path, capsys):
    checkpoints = tmp_path / "out" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "last.pt", checkpoints)
    error = refused(capsys, retrain.main, run, "--out", tmp_path / "out", *SMALL)
    assert f"cannot go on from {checkpoints / 'last.pt'}: it was begun with other settings" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it does not hold names with values"),
        (b"\xff\xfe", "or no YAML"),
        (b"[1, 2]", "it does not hold names with values"),
        (b"a: [", "or no YAML"),
        (b"seed: 3", "dataset, data_root, valid_fraction, .* of the images are missing"),
        ("workers", "workers of the images are missing"),
        ({"dataset": 5}, "dataset must be text, got 5"),
        ({"dataset": "digit"}, "unknown dataset 'digit': did you mean 'digits'"),
        ({"valid_fraction": float("nan")}, "valid_fraction must be above 0 and below 1, got nan"),
        ({"limit_train": 1e25}, "limit_train must be at least 1, .*, got 1e\\+25"),
        ({"augment": "maybe"}, "augment must be true or false, got 'maybe'"),
        ({"memory_limit_gb": None}, "memory_limit_gb must have a value, got null"),
    ],
)
def test_retrain_a_damaged_config_is_one_error(run, content, message, capsys):
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        changed = {**values, **content} if isinstance(content, dict) else values
        path.write_text(yaml.safe_dump({name: value for name, value in changed.items() if name != content}))
    error = refused(capsys, retrain.main, run, *SMALL)
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert f"error: {path} is damaged" in error


def test_retrain_a_missing_config_asks_for_the_images(run, tmp_path, capsys):
    (run / "config.yaml").unlink()
    error = refused(capsys, retrain.main, run, *SMALL)
    assert f"there is no {run}/config.yaml that says which images it is of: give --dataset" in error
    assert retrain.main([str(run), *SMALL, "--dataset=digits", "--limit_train=80", "--out", str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["settings"]["limit_train"] == 80


def test_retrain_what_was_retrained_knows_its_images(run, tmp_path):
    assert retrain.main([str(run), "--out", str(tmp_path / "one"), *SMALL, "--limit_train=90"]) == 0
    assert retrain.main([str(tmp_path / "one"), "--out", str(tmp_path / "two"), *SMALL]) == 0
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["settings"]["limit_train"] == 90


@pytest.mark.parametrize("content", [b"", b"null", b"{", b"[]", b'{"format": 1}'])
def test_retrain_a_damaged_genotype_is_one_error(run, content, capsys):
    (run / "genotype.json").write_bytes(content)
    for main, more in ((retrain.main, SMALL), (export_main, ["--format", "module"])):
        assert f"error: {run / 'genotype.json'} is " in refused(capsys, main, run, *more)


OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


@pytest.mark.skipif(OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() == "1", reason="any memory is promised")
def test_retrain_a_network_beyond_all_memory_is_one_error(run, capsys):
    path = run / "genotype.json"
    values = json.loads(path.read_text())
    network, most = values["network"], 1 << 20
    network["stem_channels"] = most
    network["blocks"] = [
        {**block, "in_channels": most, "out_channels": most, "candidates": ["conv_7x1_1x7"]}
        for block in network["blocks"]
    ]
    path.write_text(json.dumps(values))
    assert "error: the network cannot be built: " in refused(capsys, retrain.main, run, *SMALL)


def test_retrain_a_genotype_of_an_enormous_network_is_one_error(run, capsys):
    path = run / "genotype.json"
    values = json.loads(path.read_text())
    values["network"]["stem_channels"] = 10**9
    path.write_text(json.dumps(values))
    error = refused(capsys, retrain.main, run, *SMALL)
    assert f"{path} is damaged: stem_channels must be at least 1, at most 1048576 and whole, got 1000000000" in error


@pytest.mark.parametrize("format", ["module", "pt2"])
def test_export_what_is_there_is_kept_unless_it_may_be_replaced(run, format, capsys):
    suffix = {"module": ".pt", "pt2": ".pt2"}[format]
    (run / f"model{suffix}").write_text("mine")
    before = contents(run)
    error = refused(capsys, export_main, run, "--format", format)
    assert f"cannot write {run / f'model{suffix}'}, which is there already: give another --out, or --overw" in error
    with pytest.raises(FileExistsError, match="which is there already"):
        export.export(run, format)
    assert contents(run) == before
    assert export_main([str(run), "--format", format, "--overwrite"]) == 0
    assert (run / f"model{suffix}").read_bytes() != b"mine"


def test_export_of_two_one_says_so(run, tmp_path, capsys):
    out = tmp_path / "deep" / "net.py"
    with claimed_file(out):
        assert f"another command is writing {out}" in refused(
            capsys, export_main, run, "--format", "module", "--out", out
        )
    assert not out.parent.exists()
    assert export_main([str(run), "--format", "module", "--out", str(out)]) == 0
    assert sorted(os.listdir(out.parent)) == ["net.pt", "net.py"]


def test_report_its_own_page_and_figures_are_replaced(run, tmp_path, capsys):
    figures = tmp_path / "figures"
    for _ in range(2):
        assert report([str(run), "--figures", str(figures)]) == 0


@pytest.mark.parametrize("name", ["report.html", "figures/loss.svg"])
def test_report_what_no_report_has_written_is_kept(run, name, capsys):
    (run / "figures").mkdir()
    (run / name).write_text("<html>mine</html>")
    before = contents(run)
    error = refused(capsys, report, run, "--figures", run / "figures")
    assert f"cannot write {run / name}, which is there already: give another name, or --overwrite" in error
    assert contents(run) == before
    assert report([str(run), "--figures", str(run / "figures"), "--overwrite"]) == 0
    assert (run / name).read_text() != "<html>mine</html>"


def test_report_a_comparison_does_not_replace_a_page_of_the_users_own(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "comparison.html").write_text("mine")
    assert "cannot write comparison.html, which is there" in refused(capsys, report, run, run)
    assert (tmp_path / "comparison.html").read_text() == "mine"


def test_what_cannot_be_written_may_not_be_cleared_up_either(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*config\.yaml: Read-only file system$"):
        checkpoint.write_atomically(tmp_path / "config.yaml", b"x")


def test_a_name_that_is_too_long(tmp_path, run, capsys):
    for main, more in ((train, options()), (derive.main, [run]), (retrain.main, [run, *SMALL])):
        error = refused(capsys, main, *more, "--out", tmp_path / ("x" * 300))
        assert "File name too long" in error
    error = refused(capsys, report, run, "--out", tmp_path / ("x" * 250 + ".html"))
    assert "File name too long" in error


@pytest.mark.parametrize("command", ["derive", "retrain", "export", "report"])
def test_a_disk_that_is_full_is_one_error(run, tmp_path, monkeypatch, capsys, command):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out" / "x.py"
    main, arguments = {
        "derive": (derive.main, [run, "--out", out]),
        "retrain": (retrain.main, [run, *SMALL, "--out", out]),
        "export": (export_main, [run, "--format", "module", "--out", out]),
        "report": (report, [run, "--out", out]),
    }[command]
    assert "No space left on device" in refused(capsys, main, *arguments)
    assert not list(tmp_path.rglob(".lock"))
    monkeypatch.undo()
    if command != "report":
        assert main(list(map(str, arguments))) == 0
