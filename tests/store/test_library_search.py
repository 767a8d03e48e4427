"""The folder of an `asose_fast.search` keeps its network, which `asose_fast.load` gives; commands say so."""

import json

import pytest
import torch

import asose_fast
from asose_fast import MixedOp
from asose_fast.derive import main as derive
from asose_fast.engine.alpha.selector import CLOSED
from asose_fast.engine.state import SearchState
from asose_fast.export.__main__ import main as export
from asose_fast.report.__main__ import main as report
from asose_fast.retrain import main as retrain
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.train import main as train
from tests.helpers import contents, refused
from tests.library.networks import Choices, batches, small

RESULT = "is of asose_fast.search: in Python, asose_fast.load("
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


def test_load_gives_the_network_that_was_found(folder, monkeypatch):
    found, model = find(folder), Choices()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = asose_fast.load(folder, model)
    x = batches(seed=2)[0][0]
    assert torch.equal(network(x), found.network(x))
    assert not network.training
    assert not any(isinstance(module, MixedOp) for module in network.modules())
    network.head.weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    monkeypatch.setenv("HOME", str(folder.parent))
    assert torch.equal(asose_fast.load("~/mine", Choices()).stem.weight, found.network.stem.weight)


def test_what_another_model_or_file_is_at_fault_with_is_told(folder, run, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)network\.pt is not of this model: .*size mismatch for head"):
        asose_fast.load(folder, Choices(classes=3))
    other = torch.nn.Sequential(MixedOp({"a": torch.nn.Identity(), "b": torch.nn.Tanh()}))
    with pytest.raises(ValueError, match=r"it was searched in other mixed operations or candidates"):
        asose_fast.load(folder, other)
    with pytest.raises(FileNotFoundError, match=r"there is no network\.pt, .* is loaded without a model"):
        asose_fast.load(run, Choices())
    (tmp_path / "network.pt").write_bytes((folder / "network.pt").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"network\.pt is damaged"):
        asose_fast.load(tmp_path, Choices())


def test_the_choices_are_those_of_the_network_that_validation_chose(tmp_path, monkeypatch):
    """Which are not always the most probable ones."""

    def least(self, among, budget=None, by="validation"):
        scores = self.selector.logits().detach()
        return self.task.budget.choose(self.network, -scores.where(scores > CLOSED / 2, torch.inf))

    monkeypatch.setattr(SearchState, "final_path", least)
    found = find(tmp_path / "mine")
    for name, chosen in found.genotype.items():
        assert chosen == min(found.alpha[name], key=found.alpha[name].get)
    x = batches(seed=2)[0][0]
    assert torch.equal(asose_fast.load(tmp_path / "mine", Choices())(x), found.network(x))
