"""Searches of the space stages from the first batch to the files: growth of all kinds, resuming, export, the report."""

import copy
import importlib.util
import json
from xml.etree import ElementTree

import pytest
import torch

import asose_fast
from asose_fast import retrain
from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.export import export
from asose_fast.report import drawing
from asose_fast.space import Network, NetworkSpec
from asose_fast.train import main as train
from tests.helpers import CPU, FEW, TINY, make_trainer, options

GROWING = {
    "space": "stages",
    "depth": 3,
    "growth_epochs": 4,
    "growth_patience": 1,
    "growth_threshold": 99.0,
    "growth_candidates": ("res_conv_3x3",),
    "opening_steps": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "run"
    assert train([*options(**GROWING), "--out", str(folder)]) == 0
    return folder


def test_it_grows_in_every_way(run):
    summary = json.loads((run / "summary.json").read_text())
    assert {event["kind"] for event in summary["growth"]} == {"deeper", "wider", "branch"}
    network = asose_fast.load(run)
    assert network.spec.skeleton == "stages"
    assert list(network.spec.operations) == summary["operations"]
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("format", ["module", "pt2", "onnx"])
def test_its_network_is_exported(run, tmp_path, format):
    if format == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    ending = {"module": ".py"}.get(format, f".{format}")
    assert export(run, format, tmp_path / f"model{ending}", with_normalization=True).difference < 1e-5


def test_its_network_is_trained_from_scratch(run, tmp_path):
    out = tmp_path / "out"
    words = ["--epochs=1", "--channels=6", "--batch_size=20", "--drop_path=0.2", "--auxiliary=0.4"]
    assert retrain.main([str(run), "--out", str(out), *words]) == 0
    assert asose_fast.load(out).spec.stem_channels == 6


def test_its_network_is_drawn(run):
    genotype = json.loads((run / "genotype.json").read_text())
    figure = str(drawing.network(genotype)(860.0))
    ElementTree.fromstring(figure)
    assert figure.count("stem, convolution 3 \u00d7 3, max pooling</text>") == 1
    blocks = genotype["network"]["blocks"]
    assert figure.count(">convolution 3 \u00d7 3</text>") == sum(block.get("kernel") == 3 for block in blocks) == 2
    assert figure.count('class="hair"') == len(blocks)
    assert "4 \u00d7 4" in figure
    assert "8 \u00d7 8" in figure


def test_a_resumed_search_ends_with_the_same_bits(tmp_path):
    whole = make_trainer(tmp_path / "whole", **GROWING)
    states = []
    end = whole._end_epoch
    whole._end_epoch = lambda phase: (end(phase), states.append(copy.deepcopy(whole.state.state_dict())))
    whole.run()
    grown = next(i for i, record in enumerate(whole.state.history) if record.get("growth"))
    again = make_trainer(tmp_path / "again", **GROWING)
    again.state.load_state_dict(states[grown])
    again.run()
    ours, theirs = whole.state.network.state_dict(), again.state.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_bounds_hold_for_stages_too(tmp_path):
    settings = {key: value for key, value in GROWING.items() if not key.startswith("growth")}
    trainer = make_trainer(tmp_path, **settings, derive_max_flops=10**9, max_flops=10**9)
    trainer.run()
    with pytest.raises(ValueError, match=r"at the start already, a network of .* flops could be derived"):
        make_trainer(tmp_path, **settings, max_flops=10)


def test_a_number_that_is_none_is_traced_to_what_follows_the_block(tmp_path):
    trainer = make_trainer(tmp_path, space="stages", depth=3)
    with torch.no_grad():
        trainer.state.network.blocks[1].project[1].weight.fill_(float("nan"))
    with pytest.raises(SearchDivergedError, match="layer 2, gain or projection"):
        trainer.run()


def test_images_that_shrink_to_one_pixel_are_refused_in_a_batch_of_one():
    """A network for larger images halves those of digits, of 8 pixels, three times."""
    supernet = NetworkSpec.stages(Config(space="stages", depth=3, channels=4, candidates=FEW), 1, 10, 32)
    spec = Network(supernet).derive([1, 1, 2]).spec
    config = RetrainConfig(epochs=1, limit_train=TINY["limit_train"] + 1, batch_size=20, keep_validation=False)
    data = load_data(config, config.batch_size, 0, CPU)
    with pytest.raises(ValueError, match="batch norm needs two images a batch or more"):
        TrainingState(config, spec, data, CPU)
    data = load_data(RetrainConfig(limit_train=120, batch_size=20), 20, 0, CPU)
    Retrainer(TrainingState(config, spec, data, CPU)).run()
