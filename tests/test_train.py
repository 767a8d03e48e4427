"""`python -m asose_fast.train`: what a run leaves, resuming, options, errors."""

import json
import os
import random
import re
import shutil
import signal
import time

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine import result
from asose_fast.engine.evaluate import accuracy
from asose_fast.presets import IMAGES
from asose_fast.retrain import main as retrain
from asose_fast.space.latency import Target, Timing
from asose_fast.store import checkpoint, provenance
from asose_fast.train import main, parser
from tests.helpers import CPU, TINY, make_config, options
from tests.processes import Command
from tests.report.runs import Page

FILES = {
    "config.yaml",
    "metrics.jsonl",
    "checkpoints",
    "tensorboard",
    "genotype.json",
    "model.safetensors",
    "report.html",
}
TIMINGS = ("seconds", "images_per_second", "health")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("train") / "run"
    assert main([*options(), "--out", str(folder)]) == 0
    return folder


def metrics(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]


def refused(capsys, *arguments):
    """What the command says when it refuses."""
    try:
        status = main(list(arguments))
    except SystemExit as end:
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert re.search(r"\A(warning: .*\n)*error: ", error)
    assert "Traceback" not in error
    return error


def test_a_run_leaves_its_files(run):
    assert {p.name for p in run.iterdir()} == FILES | {"summary.json", "tested.json"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        *("last.pt", "supernet.pt"),
        *(f"epoch-000{epoch}-step-000000.pt" for epoch in (3, 4, 5)),
    }
    assert Config.from_dict(yaml.safe_load((run / "config.yaml").read_text())) == make_config()
    assert [r["phase"] for r in metrics(run)] == ["warmup", "search", "search", "growth", "optimize"]
    summary = json.loads((run / "summary.json").read_text())
    genotype = json.loads((run / "genotype.json").read_text())
    assert genotype["operations"] == summary["operations"]
    assert [item["name"] for item in summary["health"]][-1] == "blocks without weights"
    assert len(summary["health"]) == 6


def test_the_written_model_has_the_written_test_accuracy(run):
    network = result.load(run)
    assert not network.training
    config = make_config()
    data = load_data(config, config.batch_size, config.seed, CPU)
    summary = json.loads((run / "summary.json").read_text())
    assert accuracy(network, data.test.batches(0)) == summary["test_accuracy"]
    assert sum(p.numel() for p in network.parameters()) == summary["parameters"]
    genotype = json.loads((run / "genotype.json").read_text())
    assert genotype["normalization"] == {"mean": list(data.mean), "std": list(data.std)}
    assert genotype["classes"] == list(data.classes)


def test_a_foreign_genotype_is_refused(tmp_path):
    (tmp_path / "genotype.json").write_text('{"format": "darts"}')
    with pytest.raises(ValueError, match=r"genotype\.json is not a genotype of asose_fast, version 1"):
        result.load(tmp_path)


@pytest.mark.parametrize("damage", ["genotype.json", "model.safetensors", "other network"])
def test_a_damaged_result_is_refused(run, tmp_path, damage):
    folder = copied(run, tmp_path / "run")
    if damage == "other network":
        text = (folder / "genotype.json").read_text()
        (folder / "genotype.json").write_text(text.replace('"stem_channels": 4', '"stem_channels": 1000000000'))
    else:
        (folder / damage).write_bytes((folder / damage).read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"(genotype\.json|model\.safetensors) "):
        result.load(folder)


def start(folder):
    """The command in a process of its own, returned once its search has begun."""
    process = Command("asose_fast.train", *options(search_epochs=60), "--out", str(folder))
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) >= 2:
            return process
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    raise AssertionError(process.wait())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main([*options(search_epochs=60), "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_end(tmp_path, undisturbed, number, capsys):
    folder = tmp_path / "run"
    process = start(folder)
    process.send_signal(number)
    done = process.wait(timeout=120)
    said, error = done.stdout.decode(), done.stderr.decode()
    if number == signal.SIGKILL:
        assert done.returncode == -number
    else:
        assert done.returncode == 128 + number
        assert f"stopped by {number.name} in phase search" in said
        assert f"python -m asose_fast.train --resume {folder}" in said
        assert "Traceback" not in error
    assert not (folder / "summary.json").exists()
    assert main(["--resume", str(folder)]) == 0
    assert f"resuming {folder}" in capsys.readouterr().out.replace("\n", "")
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert metrics(folder) == metrics(undisturbed)


def test_resuming_a_finished_run_writes_its_results_again(run):
    (run / "summary.json").unlink()
    model = (run / "model.safetensors").read_bytes()
    assert main([f"--resume={run}"]) == 0
    assert (run / "summary.json").exists()
    assert (run / "model.safetensors").read_bytes() == model
    assert len(metrics(run)) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_place_for_latencies_that_is_not_there_is_refused_before_anything_is_trained(tmp_path, capsys):
    error = refused(capsys, *options(latency_device="cuda"), "--out", str(tmp_path / "run"))
    assert "latency_device 'cuda' cannot be used here" in error
    assert not list((tmp_path / "run").glob("*.*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_that_goes_on_where_its_place_for_latencies_is_not_there_ends_without_one(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Target, "unusable", None)
        patch.setattr(result, "network_latency", lambda *_: Timing(1, 2, 3))
        assert main([*options(latency_device="cuda"), "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["latency"]["median"] == 2e-6
    capsys.readouterr()
    assert main(["--resume", str(out)]) == 0
    assert "the latency is not measured: latency_device 'cuda' cannot be used here" in capsys.readouterr().err
    assert json.loads((out / "summary.json").read_text())["latency"] is None


def test_strict_ends_with_status_3_on_a_breach(tmp_path, capsys):
    breached = options(entropy_below=0.01, throughput_steady=0.0, max_weight_above=0.0, accuracy_above_chance=0.0)
    assert main(["--strict", *breached, "--out", str(tmp_path / "a")]) == 3
    assert "out of bounds at the end of the search: architecture entropy" in capsys.readouterr().err
    assert (tmp_path / "a" / "summary.json").exists()
    assert main([*breached, "--entropy_below=9", "--strict=true", "--out", str(tmp_path / "b")]) == (
        0 if json.loads((tmp_path / "b" / "summary.json").read_text())["health"][3]["value"] > 0 else 3
    )
    assert main([*breached, "--out", str(tmp_path / "c")]) == 0


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    assert not end.value.code
    return yaml.safe_load(capsys.readouterr().out)


def test_print_config_prints_every_setting(capsys):
    settings = printed(capsys)
    expected = {**Config(**IMAGES).to_dict(), "candidates": []}  # none given: those of the space
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize("option", ["--limit-train=77", "--limit_train=77", "--limit-train 77", "--limit_train 77"])
def test_hyphens_and_underscores(capsys, option):
    assert printed(capsys, *option.split())["limit_train"] == 77


def test_values_keep_their_hyphens(capsys):
    assert printed(capsys, "--dataset", "fashion-mnist", "--data-root=a-b/--c")["data_root"] == "a-b/--c"
    assert printed(capsys, "--dataset=fashion-mnist")["dataset"] == "fashion-mnist"


def test_yaml_file(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("limit_train: 90\nwarmup: skip\ncandidates: [none, skip_connect]\n")
    settings = printed(capsys, "--config", str(file), "--limit-train", "80")
    assert (settings["limit_train"], settings["warmup"]) == (80, "skip")
    assert settings["candidates"] == ["none", "skip_connect"]


def test_the_config_of_a_run_runs_again(run, capsys):
    assert printed(capsys, "--config", str(run / "config.yaml"))["channels"] == TINY["channels"]


def test_a_config_file_without_a_value_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("candidates: null")
    assert "candidates must have a value, got null" in refused(capsys, "--config", str(tmp_path / "config.yaml"))


def test_a_config_file_that_is_no_text_is_refused(tmp_path, capsys):
    (tmp_path / "run.yaml").write_bytes(b"\x80")
    assert "the file of --config cannot be read as YAML: 'utf-8'" in refused(
        capsys, "--config", str(tmp_path / "run.yaml")
    )


def test_what_the_plan_is_too_short_for_is_in_the_summary_and_the_report(run, capsys):
    told = json.loads((run / "summary.json").read_text())["shortcomings"]
    assert ["alpha steps are planned" in told[0], "warmup steps are" in told[1]] == [True, True]
    page = Page((run / "report.html").read_text()).text
    assert all(sentence in page for sentence in told)


def test_unknown_options_and_keys_name_the_nearest(tmp_path, capsys):
    assert "did you mean 'batch_size'?" in refused(capsys, "--batch_sise=3")
    assert "did you mean 'growth_patience'?" in refused(capsys, "--growth-patiense", "3")
    for initials, option in (("lr", "learning_rate"), ("bs", "batch_size"), ("wd", "weight_decay")):
        assert f"did you mean '{option}'?" in refused(capsys, f"--{initials}", "3")
    file = tmp_path / "run.yaml"
    file.write_text("limit_trian: 90\n")
    error = refused(capsys, "--config", str(file))
    assert "limit_trian" in error
    assert "did you mean 'limit_train'?" in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--warmup=unifrom", "did you mean 'uniform'?"),
        ("--candidates=[none,sep_conv3x3]", "unknown candidate 'sep_conv3x3': did you mean 'sep_conv_3x3'?"),
        ("--dataset=digit", "unknown dataset 'digit': did you mean 'digits'?"),
        ("--batch_size=many", "batch_size"),
        ("--epochs=3", "epochs must be at least 4"),
        ("--alpha_every=1", "alpha_every must be at least 2"),
        ("--device=gpu", "device 'gpu' cannot be used here"),
        ("--limit_train=5", "limit_train must be at least 20"),
        ("--boost_top_k=-1", "boost_top_k must be"),
    ],
)
def test_bad_values_are_refused_before_a_folder_is_made(tmp_path, capsys, option, message):
    folder = tmp_path / "run"
    assert message in refused(capsys, option, "--out", str(folder))
    assert not folder.exists()


def test_an_existing_run_is_not_overwritten(run, capsys):
    before = (run / "metrics.jsonl").read_bytes()
    error = refused(capsys, *options(), "--out", str(run))
    assert f"{run} holds a run already: resume it with --resume {run}, or give another --out" in error
    assert (run / "metrics.jsonl").read_bytes() == before


def test_resume_takes_no_other_option(run, tmp_path, capsys):
    file = tmp_path / "resume.yaml"
    file.write_text(f"resume: {run}\nlimit_train: 90\n")
    for arguments in (
        ["--resume", str(run), "--limit_train=90"],
        [f"--resume={run}", "--strict=true"],
        ["--limit-train", "90", "--resume", str(run)],
        ["--config", str(file)],
    ):
        assert "--resume takes its settings from the run" in refused(capsys, *arguments)


def resumed(capsys, folder):
    """What the command says to the user, on either stream, when it resumes to the end."""
    assert main(["--resume", str(folder)]) == 0
    return capsys.readouterr()


def copied(run, folder):
    shutil.copytree(run, folder)
    return folder


def tensorboard_epochs(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.step for event in events.Scalars("train_loss")]


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(run, tmp_path, capsys):
    folder = copied(run, tmp_path / "run")
    (folder / "checkpoints" / "epoch-0005-step-000000.pt").write_bytes(b"x")
    said = resumed(capsys, folder)
    assert "warning:" in said.err
    assert "epoch-0005-step-000000.pt is damaged" in said.err
    assert "going on from the newest good one, epoch-0004-step-000000.pt" in said.err
    assert f"resuming {folder} after 4 of 5 epochs and 0 steps\n" in said.out
    assert (folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert metrics(folder) == metrics(run)
    assert tensorboard_epochs(folder) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("found", ["", "broken", "doubled"])
def test_metrics_are_made_those_of_the_checkpoint(run, tmp_path, capsys, found):
    folder = copied(run, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text()
    written = {"": "", "broken": lines[:-20], "doubled": lines + lines.splitlines()[-1]}[found]
    (folder / "metrics.jsonl").write_text(written)
    resumed(capsys, folder)
    assert (folder / "metrics.jsonl").read_text() == lines


def test_changed_images_are_refused_and_changed_code_is_told(tmp_path, run, capsys, monkeypatch):
    folder = copied(run, tmp_path / "run")
    monkeypatch.setattr(provenance, "_sources", lambda: "others")
    assert "warning: the source files of asose_fast have changed" in resumed(capsys, folder).err
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    state["provenance"]["data"] = "others"
    checkpoint.save(folder / "checkpoints" / "epoch-0005-step-000000.pt", state)
    error = refused(capsys, "--resume", str(folder))
    assert "epoch-0005-step-000000.pt: the images, their labels or their division are not those" in error


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    assert f"there is no checkpoint in {folder / 'checkpoints'}: start the run anew" in refused(
        capsys, "--resume", str(folder)
    )
    assert main([*options(), "--out", str(folder)]) == 0


def test_bad_checkpoints_are_refused(tmp_path, run, capsys):
    assert "there is no checkpoint" in refused(capsys, "--resume", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.pt"
    last.write_bytes((run / "checkpoints" / "last.pt").read_bytes()[:5000])
    error = refused(capsys, "--resume", str(tmp_path))
    assert "no good checkpoint is left" in error
    assert f"{last} is damaged or not a checkpoint of asose_fast (the checksum of its 5,000 bytes is wrong)" in error
    torch.save({"model": 1}, last)
    assert "it does not begin as one of this release does" in refused(capsys, "--resume", str(tmp_path))
    last.write_bytes(checkpoint.sealed(b"", version=99))
    assert "has checkpoint version 99" in refused(capsys, "--resume", str(tmp_path))
    checkpoint.save(last, {"config": make_config().to_dict(), "provenance": None})
    assert f"cannot go on from {last}: its state does not fit: TypeError" in refused(capsys, "--resume", str(tmp_path))


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    write = checkpoint.write_atomically
    written = []

    def full_after_three(path, content):
        if path.name.startswith("epoch-"):
            written.append(path)
        if len(written) > 2:
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", full_after_three)
    error = refused(capsys, *options(), "--out", str(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints"
    assert (
        f"cannot write {folder / 'epoch-0002-step-000000.pt'}: No space left on device. When that is mended: " in error
    )
    assert error.endswith(f"python -m asose_fast.train --resume {tmp_path / 'run'}\n")
    assert checkpoint.load(folder / "last.pt")["progress"]["epoch"] == 1  # after the first and that of the start
    monkeypatch.undo()
    assert main(["--resume", str(tmp_path / "run")]) == 0


def test_how_images_were_found_is_said_once(tmp_path, capsys):
    draw = random.Random(0)
    for folder in ("cat", "dog", "cat/.ipynb_checkpoints"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(40):
            image = Image.frombytes("L", (8, 8), draw.randbytes(64))
            image.save(tmp_path / "images" / folder / f"{number}.png")
    (tmp_path / "images" / "dog" / "notes.txt").write_text("Bello")
    folder = str(tmp_path / "run")
    images = f"imagefolder:{tmp_path / 'images'}"
    small = options(limit_train=64, limit_test=16, dataset=images, batch_size=8, warmup="skip", alpha_learning_rate=1)
    told = [
        f"warning: {tmp_path / 'images'}: hidden and system files are skipped: cat/.ipynb_checkpoints",
        f"warning: {tmp_path / 'images'}: files of which no image is read are left out: 1 .txt",
    ]
    assert main([*small, "--out", folder]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == told
    assert "48 training, 16 validation, 16 test images of 2 classes" in said.out
    assert retrain([folder, "--epochs", "1", "--batch_size", "8", "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().err.splitlines() == told


def test_words_of_the_command_line():
    normalized = parser().words
    assert normalized([]) == []
    assert normalized(["--strict"]) == ["--strict=true"]
    assert normalized(["--limit-train", "50", "--strict", "--augment", "false"]) == [
        *("--limit_train", "50", "--strict=true", "--augment", "false")
    ]
    assert normalized(["--out=a-b", "--config", "my-run.yaml"]) == ["--out=a-b", "--config", "my-run.yaml"]
