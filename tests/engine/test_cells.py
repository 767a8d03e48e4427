"""Searches of cell spaces from the first batch to the files, resuming, deriving, retraining, export."""

import copy
import json

import pytest
import torch

import asose_fast
from asose_fast import retrain
from asose_fast.config import Config
from asose_fast.derive import derive
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.export import ExportError, export
from asose_fast.space.cells.genotype import from_text
from asose_fast.train import main as train
from tests.helpers import TINY, make_trainer

SPACES = {"darts": {"space": "darts", "cells": 3}, "nasbench201": {"space": "nasbench201", "cells": 1}}
SETTINGS = {key: value for key, value in TINY.items() if key != "candidates"}


def words(space):
    return [f"--{key}={value}" for key, value in {**SETTINGS, **SPACES[space]}.items()]


@pytest.fixture(scope="module", params=SPACES)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / request.param
    assert train([*words(request.param), "--out", str(folder)]) == 0
    return folder


def test_a_search_leaves_a_network_and_its_text(run):
    genotype = json.loads((run / "genotype.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert genotype["operations"] == summary["operations"]
    assert genotype["text"].startswith("Genotype(" if run.name == "darts" else "|")
    spec = from_text(genotype["text"], in_channels=1, classes=10, channels=4, cells=3, affine=False)
    assert list(spec.operations) == genotype["operations"]
    network = asose_fast.load(run)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_its_network_is_exported(run, tmp_path, format):
    exported = export(run, format, tmp_path / f"model.{format}", with_normalization=format == "onnx")
    assert exported.difference < 1e-5
    with pytest.raises(ExportError, match="networks of the space chain"):
        export(run, "module", tmp_path / "model.py")


def test_it_is_derived_anew(run):
    for method in ("perturbation", "validation"):
        found = derive(run, method)
        assert len(found.network.operations) == (16 if run.name == "darts" else 6)
        assert found.cost.parameters == sum(p.numel() for p in found.network.parameters())
    if run.name == "darts":
        with pytest.raises(ValueError, match="derive_max_flops needs costs that are sums over rows"):
            derive(run, max_flops=10**9)
        return
    free = derive(run, max_flops=10**9).cost
    assert free.parameters < 20_000
    assert 20_000 <= derive(run, min_parameters=20_000, max_parameters=22_000).cost.parameters <= 22_000


def test_its_text_is_trained_from_scratch(run, tmp_path, capsys):
    text = json.loads((run / "genotype.json").read_text())["text"]
    small = ["--epochs=1", "--channels=4", "--cells=3", "--limit_train=60", "--limit_test=40", "--batch_size=20"]
    out = tmp_path / "out"
    given = tmp_path / "genotype.txt"
    given.write_text(text)
    assert retrain.main([str(given), "--out", str(out), *small, "--drop_path=0.2", "--auxiliary=0.4"]) == 0
    assert asose_fast.load(out)(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert retrain.main([text.replace("~1", "~7").replace("1)", "9)"), "--out", str(tmp_path / "no"), *small]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("space", SPACES)
def test_a_resumed_search_ends_with_the_same_bits(tmp_path, space):
    settings = {**SPACES[space], "candidates": ()}
    whole = make_trainer(tmp_path / "whole", **settings)
    states = []
    end = whole._end_epoch
    whole._end_epoch = lambda phase: (end(phase), states.append(copy.deepcopy(whole.state.state_dict())))
    whole.run()
    assert [r["phase"] for r in whole.state.history] == ["warmup", "search", "search", "growth", "optimize"]
    again = make_trainer(tmp_path / "again", **settings)
    again.state.load_state_dict(states[1])
    again.run()
    ours, theirs = whole.state.network.state_dict(), again.state.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_number_that_is_none_is_traced_to_its_edge(tmp_path):
    trainer = make_trainer(tmp_path, **SPACES["nasbench201"], candidates=())
    cell = trainer.state.network.mixed_cells()[1]
    with torch.no_grad():
        cell.ops[0].ops["nor_conv_3x3"][1].weight.fill_(float("nan"))
    with pytest.raises(SearchDivergedError, match="cell 2, edge 0 to 1, operation nor_conv_3x3"):
        trainer.run()


def test_bounds_of_the_chain_are_refused_for_cells():
    with pytest.raises(ValueError, match="max_flops bounds networks that grow, of the space chain, stages or mobile"):
        Config(space="nasbench201", max_flops=10)
    with pytest.raises(ValueError, match=r"derive_min_parameters needs .* a node keeps two of its edges"):
        Config(space="darts", derive_min_parameters=10)
    with pytest.raises(ValueError, match="cells must be at least 1"):
        Config(space="darts", cells=0)
