"""From one command to a network on a user's own images, whatever their sizes: it is resumed, compared and applied."""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from asose_fast import Predictor
from asose_fast.compare import main as compare
from asose_fast.derive import main as derive
from asose_fast.retrain import main as retrain
from asose_fast.store import checkpoint_folder
from asose_fast.train import main as train
from asose_fast.train import search
from tests.helpers import options, refused

OWN = options(batch_size=8, limit_train=None, limit_test=None, candidates=("skip_connect", "max_pool_3x3"))
SIZES = ((20, 10), (9, 12), (8, 40), (17, 17))


def draw(folder, count=20):
    """Images of two classes, in four sizes. The median of their shorter sides is 9."""
    drawn = random.Random(0)
    for shade, kind in enumerate(("cat", "dog")):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            image = Image.new("L", SIZES[number % 4], 60 * shade + drawn.randrange(100))
            image.save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A folder with images of several sizes, and a run on them."""
    root = tmp_path_factory.mktemp("own")
    photos = draw(root / "photos")
    assert train([*OWN, f"--dataset=imagefolder:{photos}", f"--out={root / 'run'}"]) == 0
    return root


def image_size(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())["image_size"]


def test_a_run_keeps_the_side_that_it_has_chosen(found, tmp_path, capsys):
    assert image_size(found / "run") == 8
    assert checkpoint_folder.load_newest(found / "run" / "checkpoints", print)[1]["config"]["image_size"] == 8
    same = [*OWN, f"--dataset=imagefolder:{found / 'photos'}"]
    assert train([*same, f"--out={found / 'run'}", "--resume_if_there"]) == 0
    assert "are resized" not in capsys.readouterr().out
    small = ["--epochs=1", "--batch_size=8", "--limit_train=8", f"--out={tmp_path / 'again'}"]
    assert retrain([str(found / "run"), *small]) == 0
    assert image_size(tmp_path / "again") == 8
    assert len(Predictor(found / "run").predict(found / "photos")) == 40


def test_a_run_of_before_there_was_a_cache_is_trained_again(found, tmp_path):
    run = Path(shutil.copytree(found / "run", tmp_path / "run"))
    settings = yaml.safe_load((run / "config.yaml").read_text())
    del settings["cache_root"], settings["stem_stride"]
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert retrain([str(run), "--epochs=1", "--batch_size=8", f"--out={tmp_path / 'again'}"]) == 0


def test_a_run_that_reads_its_images_from_a_cache_goes_on_to_the_bit(found, tmp_path, capsys):
    """Also where it is resumed without the cache, which is made anew, and from another folder."""
    cache = tmp_path / "cache"
    same = [*OWN, f"--dataset=imagefolder:{found / 'photos'}", "--memory_limit_gb=0", f"--cache_root={cache}"]
    assert train([*same, f"--out={tmp_path / 'run'}"]) == 0
    (kept,) = cache.iterdir()
    assert f"they are read from {kept}" in capsys.readouterr().out
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert model == (found / "run" / "model.safetensors").read_bytes()
    again = Path(shutil.copytree(tmp_path / "run", tmp_path / "again"))
    checkpoints = sorted((again / "checkpoints").glob("epoch-*"))
    assert len(checkpoints) > 1
    for path in [*checkpoints[1:], again / "checkpoints" / "last.pt"]:
        path.unlink(missing_ok=True)
    kept.unlink()
    assert train(["--resume", str(again)]) == 0
    assert (again / "model.safetensors").read_bytes() == model


def test_the_side_that_is_chosen_is_said_before_the_first_epoch(found, tmp_path, capsys):
    words = [*OWN, f"--dataset=imagefolder:{found / 'photos'}", "--epochs=4", f"--out={tmp_path / 'run'}"]
    assert train(words) == 0
    said = capsys.readouterr().out
    line = "images of 8 to 17 pixels at the shorter side, with a median of 9, are resized to 8x8"
    assert 0 < said.index(line) < said.index("epoch ")
    assert train([*words[:-1], "--image_size=12", f"--out={tmp_path / 'other'}"]) == 0
    assert "are resized" not in capsys.readouterr().out
    assert image_size(tmp_path / "other") == 12


@pytest.fixture(scope="module")
def tabled(found):
    """A table of the images, a run on it that `search` began, and another that retraining and comparison belong to."""
    table = found / "tables" / "labels.csv"
    table.parent.mkdir()
    paths = sorted((found / "photos").rglob("*.png"))
    table.write_text(
        "".join(["file,label\n", *(f"../photos/{p.parent.name}/{p.name},{p.parent.name}\n" for p in paths)])
    )
    assert search([str(table), *OWN, f"--out={table.parent / 'run'}"]) == 0
    return table


def test_a_run_on_a_table_goes_on_and_its_network_is_trained_again(tabled, tmp_path, monkeypatch, capsys):
    run = Path(shutil.copytree(tabled.parent / "run", tmp_path / "run"))
    model = (run / "model.safetensors").read_bytes()
    assert yaml.safe_load((run / "config.yaml").read_text())["dataset"] == f"csv:{tabled}"
    assert train(["--resume", str(run)]) == 0
    assert derive([str(run)]) == 0
    small = ["--epochs=1", "--batch_size=8", f"--out={tmp_path / 'again'}"]
    assert retrain([str(run), *small]) == 0
    assert (run / "model.safetensors").read_bytes() == model
    shutil.copytree(tabled.parents[1] / "photos", tmp_path / "photos")
    new = Path(shutil.copy(tabled, tmp_path / "moved.csv"))
    new.write_text(new.read_text().replace("../", ""))
    tabled.rename(tabled.with_suffix(".gone"))
    try:
        assert f"there is no file {tabled}" in (said := refused(capsys, train, "--resume", run))
        assert "give --dataset csv:PATH, where they lie now" in said
        monkeypatch.chdir(tmp_path)
        assert train(["--resume", str(run), "--dataset=csv:moved.csv"]) == 0
        assert yaml.safe_load((run / "config.yaml").read_text())["dataset"] == f"csv:{new}"
        assert retrain([str(run), *small]) == 0
    finally:
        tabled.with_suffix(".gone").rename(tabled)
    new.write_text(new.read_text().replace("0.png,cat", "0.png,dog", 1))
    assert "the images, their labels or their division are not those" in refused(capsys, train, "--resume", run)
    assert "begun with other images" in refused(capsys, retrain, run, *small)


def test_a_table_says_what_is_right_of_its_images(tabled):
    predictor = Predictor(tabled.parent / "run")
    by_table = predictor.predict(f"csv:{tabled}")
    by_folder = predictor.predict(tabled.parents[1] / "photos")
    assert by_table.labelled == 40
    assert by_table.accuracy == by_folder.accuracy
    assert predictor.predict([f"csv:{tabled}", by_table.paths[0]]).labelled == 40


def test_a_comparison_takes_the_images_of_a_table(tabled, tmp_path):
    run = Path(shutil.copytree(tabled.parent / "run", tmp_path / "run"))
    assert compare([str(run), "--random=2", "--epochs=1"]) == 0
    assert json.loads((run / "compare" / "compare.json").read_text())["networks"]
