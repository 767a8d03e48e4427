"""The folder of an `asose_fast.search` is for its report and for going on: other commands say so."""

import json

import pytest
import torch

import asose_fast
from asose_fast.derive import main as derive
from asose_fast.export.__main__ import main as export
from asose_fast.report.__main__ import main as report
from asose_fast.retrain import main as retrain
from asose_fast.train import main as train
from tests.helpers import contents, refused
from tests.library.networks import Choices, batches, small

RESULT = "is of asose_fast.search, whose result is the `network` that it returned: save that with torch.save"
COMMANDS = {
    "export": (export, "--format=module"),
    "derive": (derive,),
    "retrain": (retrain,),
    "train": (train, "--resume"),
}


def find(folder):
    torch.manual_seed(1)
    return asose_fast.search(Choices(), (batches(), batches(seed=1)), small(), folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searches") / "mine"
    find(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_takes_a_run_says_where_the_result_is(folder, capsys, command):
    main, *words = COMMANDS[command]
    before = contents(folder)
    assert refused(capsys, main, *words, folder).startswith(f"error: {folder} {RESULT}")
    assert contents(folder) == before


def test_load_says_where_the_result_is(folder):
    with pytest.raises(FileNotFoundError) as caught:
        asose_fast.load(folder)
    assert str(caught.value).startswith(f"{folder} {RESULT}")


def test_the_report_and_the_same_call_take_the_folder(folder, tmp_path):
    assert report([str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert find(folder).genotype == json.loads((folder / "summary.json").read_text())["choices"]
