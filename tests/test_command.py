"""`asose-fast`, `python -m asose_fast`: every command through one program, and what the commands have in common."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tomllib

import pytest
from PIL import Image

from asose_fast.__main__ import COMMANDS, main
from asose_fast.command import Parser, command, failed, nearest, normalized, warn
from tests.helpers import ROOT, options, refused

SMALL = ["--epochs=1", "--batch_size=20", "--threads=1"]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The folder of the script that an installer writes for the entry point of pyproject.toml."""
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["asose-fast"].split(
        ":"
    )
    path = tmp_path_factory.mktemp("bin") / "asose-fast"
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    path.chmod(0o755)
    return path.parent


@pytest.fixture
def shell(script):
    """Runs a line as a user would, with the program and Python on PATH."""
    path = os.pathsep.join([str(script), os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(ROOT)}
    return lambda line, **keywords: subprocess.run(
        line, shell=True, env=environment, capture_output=True, text=True, timeout=300, **keywords
    )


PROGRAMS = ["asose-fast", "python -m asose_fast"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_lists_its_commands_and_knows_its_version(shell, program, tmp_path):
    done = shell(f"{program} --help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {program} [-h] [--version] COMMAND ...\n")
    said = " ".join(done.stdout.split())
    for name, known in COMMANDS.items():
        assert f" {name} {known.summary}" in said
    assert re.fullmatch(r"asose_fast \d\S+\n", shell(f"{program} --version", cwd=tmp_path).stdout)
    assert shell(program, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_hint_can_be_pasted(shell, program, run):
    """What an unfinished run is told ends it."""
    (run / "genotype.json").unlink()
    done = shell(f"{program} export {run} --format module")
    assert (done.returncode, done.stdout) == (2, "")
    hint = done.stderr.partition("it has not ended: ")[2].strip()
    assert hint == f"{program} train --resume {run}"
    done = shell(hint)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"resuming {run} after 5 of 5 epochs" in done.stdout
    assert (run / "genotype.json").exists()


def test_the_script_is_named_with_its_path_where_it_is_not_on_path(shell, script, tmp_path):
    done = shell(f"COLUMNS=300 PATH=/usr/bin:/bin {script}/asose-fast --help", cwd=tmp_path)
    assert done.stdout.startswith(f"usage: {script}/asose-fast [-h]")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_what_the_program_says_of_it(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    usage, description = capsys.readouterr().out.split("\n\n")[:2]
    assert re.match(rf"usage: python -m asose_fast[. ]{name} ", usage)
    assert " ".join(description.split()).startswith(COMMANDS[name].summary)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("derive", ["--method=argmax"]),
        ("retrain", SMALL),
        ("export", ["--format", "module"]),
        ("report", ["--overwrite"]),
        ("train", ["--resume"]),
    ],
)
def test_every_command_runs(name, arguments, run, tmp_path, capsys):
    assert main([name, *arguments, str(run)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert str(run) in said.out


def test_info_is_the_same_by_any_name(shell):
    one, other = (
        json.loads(shell(f"{line} --json").stdout) for line in ("asose-fast info", "python -m asose_fast.info")
    )
    assert one == other


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("my photos"), random.Random(0)
    for kind in ("cat", "dog"):
        (folder / kind).mkdir()
        for number in range(40):
            Image.frombytes("L", (8, 8), draw.randbytes(64)).save(folder / kind / f"{number}.png")
    return folder


OWN = [
    "--epochs=4",
    "--batch_size=8",
    "--channels=4",
    "--depth=2",
    "--threads=1",
    "--warmup=skip",
    "--alpha-learning-rate=1",
]


def test_search_is_train_on_a_folder(photos, tmp_path, capsys):
    assert main(["search", f"{photos}/", *OWN, "--out", str(tmp_path / "one")]) == 0
    assert "test images of 2 classes" in capsys.readouterr().out
    assert main(["train", "--dataset", f"imagefolder:{photos}", *OWN, "--out", str(tmp_path / "two")]) == 0
    for name in ("config.yaml", "model.safetensors", "genotype.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for words in (["train"], ["search"], ["search", str(photos)]):  # which is finished, and says its result once more
        capsys.readouterr()
        assert main([*words, "--resume", str(tmp_path / "one")]) == 0
        assert f"results in {tmp_path / 'one'}" in capsys.readouterr().out
    assert main(["search", str(photos), *OWN, "--out", str(tmp_path / "one"), "--resume-if-there", "--quiet"]) == 0


def test_search_takes_its_images_from_its_folder_alone(photos, tmp_path, capsys):
    def ended(*words):
        with pytest.raises(SystemExit) as end:
            main(["search", *words])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert (
        ended()
        == ended("--out", "x")
        == ("error: the first argument must be PHOTOS, a folder of images or a .csv of them, or --resume RUN\n")
    )
    assert ended(str(photos), "--dataset", "digits") == "error: the data set is PHOTOS: leave --dataset out\n"
    assert f"there is no folder {tmp_path}/none" in refused(capsys, main, "search", tmp_path / "none")
    assert "give no other option" in refused(capsys, main, "search", photos, "--resume", tmp_path, "--seed=1")
    file = tmp_path / "run.yaml"
    file.write_text("dataset: cifar10\nchannels: 5\n")
    with pytest.raises(SystemExit):
        main(["search", str(photos), "--config", str(file), "--print_config"])
    printed = capsys.readouterr().out
    assert f"dataset: imagefolder:{photos}\n" in printed
    assert "channels: 5\n" in printed
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert not re.search("--(dataset|data_root) ", capsys.readouterr().out)


@pytest.mark.parametrize("program", [None, *PROGRAMS])
def test_an_unknown_command_is_one_error_that_names_the_nearest(program, shell, capsys, tmp_path):
    if program is None:
        error = refused(capsys, main, "retrian", "run", "--epochs=3")
        assert refused(capsys, main, "xyzzy") == f"error: unknown command 'xyzzy'; known are {', '.join(COMMANDS)}"
    else:
        done = shell(f"{program} retrian run --epochs=3", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        error = done.stderr.strip()
    assert error == "error: unknown command 'retrian': did you mean 'retrain'?"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["derive", "run", "--metod=argmax"], "error: unrecognized arguments: --metod=argmax: did you mean 'method'?"),
        (["derive", "run", "--method=argmx"], "did you mean 'argmax'?"),
        (["retrain", "run", "--epocs=3"], "did you mean 'epochs'?"),
        (["export", "run", "--format=onxx"], "did you mean 'onnx'?"),
        (["report", "run", "--figure-s=x"], "did you mean 'figures'?"),
        (["info", "--jsn"], "did you mean 'json'?"),
        (["train", "--chanels=3"], "did you mean 'channels'?"),
        (["search", "photos", "--chanels=3"], "did you mean 'channels'?"),
        (["derive"], "error: the following arguments are required: RUN"),
        (["--hlp"], "did you mean 'help'?"),
    ],
)
def test_wrong_options_are_one_error_of_every_command(words, error, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert error in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("name", ["derive", "retrain", "report", "train"])
def test_what_is_not_there_is_status_2(name, tmp_path, capsys):
    given = ["--resume", tmp_path / "none"] if name == "train" else [tmp_path / "none"]
    assert "none" in refused(capsys, main, name, *given)


def test_the_status_of_a_command_is_that_of_the_program(tmp_path, capsys):
    breached = options(entropy_below=0.01, max_weight_above=0.0, accuracy_above_chance=0.0, warmup="skip")
    assert main(["train", "--strict", *breached, "--out", str(tmp_path / "run")]) == 3


@pytest.mark.parametrize("name", ["derive", "retrain", "export", "report"])
def test_ctrl_c_is_no_traceback(name, run, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for place in ("derive._derive", "retrain._run", "export.__main__.export", "report.__main__.read"):
        monkeypatch.setattr(f"asose_fast.{place}", interrupted)
    words = ["--format", "module"] if name == "export" else []
    assert main([name, str(run), *words]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "error: stopped by SIGINT\n"


def test_a_fault_of_the_program_keeps_its_traceback(capsys):
    @command
    def faulty(arguments):
        raise KeyError(*arguments)

    with pytest.raises(KeyError, match="x"):
        faulty(["x"])
    assert capsys.readouterr().err == ""


def test_a_command_takes_the_arguments_of_the_process(monkeypatch, capsys):
    @command
    def echo(arguments):
        warn(" ".join(arguments))
        return failed("done", 7)

    monkeypatch.setattr(sys, "argv", ["program", "a", "--b"])
    assert echo() == 7
    assert capsys.readouterr().err == "warning: a --b\nerror: done\n"
    assert echo([]) == 7


def test_options_may_have_hyphens_or_underscores():
    parser = Parser("derive", "words")
    parser.add_argument("--max_flops", type=int)
    assert [parser.parse_args([word, "3"]).max_flops for word in ("--max-flops", "--max_flops")] == [3, 3]
    assert normalized(["--a-b=c-d", "e-f"]) == ["--a_b=c-d", "e-f"]


def test_only_what_is_near_is_named():
    assert nearest("trian", COMMANDS) == ": did you mean 'train'?"
    assert nearest("xyzzy", COMMANDS) == ""
