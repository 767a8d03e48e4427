"""The examples run, and find what they are to find, with fewer steps than they take by themselves."""

import importlib.util
import json
import re
import runpy

import pytest
import torch
from PIL import Image

import asose_fast
from asose_fast import MixedOp
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def any_order():
    """Users do not ask for deterministic algorithms."""
    torch.use_deterministic_algorithms(False)


def example(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


def test_custom_space():
    result = example("custom_space")(epochs=4)
    assert set(result.genotype) == {"1", "2"}
    assert result.test_score > 0.3
    assert not any(isinstance(module, MixedOp) for module in result.network.modules())


def test_custom_space_divides_its_images_in_the_same_way_every_time(monkeypatch):
    splits = []

    def keep(model, loaders, config):
        splits.append([list(loader.dataset.indices) for loader in loaders])
        raise KeyboardInterrupt

    monkeypatch.setattr(asose_fast, "search", keep)
    for seed in (1, 2):
        torch.manual_seed(seed)
        with pytest.raises(KeyboardInterrupt):
            example("custom_space")()
    assert splits[0] == splits[1]


def test_half_the_flops(capsys):
    scores = example("half_the_flops")(epochs=5)
    assert list(scores) == ["original", "searched", "not searched"]
    assert min(scores.values()) > 0.25
    shares = [int(share) for share in re.findall(r"(\d+)% of the FLOPs", capsys.readouterr().out)]
    assert len(shares) == 2
    assert max(shares) <= 50


def test_sequence():
    result = example("sequence")(epochs=8)
    assert "convolution" in result.genotype.values()
    assert result.test_score > 0.8


def test_regression():
    result = example("regression")(epochs=12)
    assert set(result.genotype) == {"layers.0", "layers.1", "layers.2"}
    assert result.test_score > -0.75


def test_series():
    assert example("series")(epochs=6).test_score > 0.8


def test_segmentation():
    result = example("segmentation")(epochs=8)
    assert set(result.genotype) == {"down", "across", "up"}
    assert result.test_score > 0.4


def test_multi_label():
    assert example("multi_label")(epochs=5).test_score > 0.5


def test_fine_tune(capsys):
    scores = example("fine_tune")(epochs=15)
    assert scores["pretrained"] > max(0.5, scores["from scratch"])
    shares = [int(share) for share in re.findall(r"(\d+)% of the FLOPs", capsys.readouterr().out)]
    assert len(shares) == 2
    assert max(shares) <= 60


def test_first_search(capsys):
    """The cells of the notebook, in order. It is kept without outputs, which would be those of another machine."""
    notebook = json.loads((ROOT / "examples" / "first_search.ipynb").read_text())
    cells, names = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"], {"__name__": "__main__"}
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["found"].test_score > 0.7
    assert "label" in capsys.readouterr().out


def test_plain_loop():
    assert example("plain_loop")(steps=400) < 0.4


def test_own_images(tmp_path):
    for part, count in (("train", 12), ("test", 4)):
        for value, name in enumerate(("dark", "light")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (60 + 130 * value + i,) * 3).save(
                    tmp_path / "images" / part / name / f"{i}.png"
                )
    result = example("own_images")(str(tmp_path / "images"), epochs=3, size=8, out=str(tmp_path / "run"))
    assert set(result.genotype) == {"1", "2", "6", "7"}
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(("name", "module"), [("lightning_search", "lightning"), ("accelerate_search", "accelerate")])
def test_frameworks(name, module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (pip install '.[test]')")
    assert example(name)(epochs=4) > 0.6
