"""A network says of image files what it said of them in the evaluation of its run, whatever it is read from."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import asose_fast
from asose_fast import Predictor
from asose_fast.data import DataError, DataNotFoundError, load_data
from asose_fast.export import export
from asose_fast.predict.__main__ import main
from asose_fast.predict.files import find
from asose_fast.space import BlockSpec
from asose_fast.train import main as train
from tests.export.networks import make_derived, make_run
from tests.helpers import CPU, make_config, options, refused

CLASSES = ("ant", "bee", "cow")


def write_photos(root, size=(14, 10), mode="RGB"):
    """Images of three classes, each brighter than the last, stored in several formats and on their side."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 7)):
        for k, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                values = rng.integers(12 * k, 12 * k + 200, (size[1], size[0], 3)).astype(np.uint8)
                image, exif = Image.fromarray(values).convert(mode), Image.Exif()
                exif[0x0112] = 6 if i % 2 else 1
                image.save(folder / f"{i:03}.{'jpg' if i % 3 else 'png'}", exif=exif)
    return root


def trained(root, folder, **changes):
    settings = {"limit_train": None, "limit_test": None, "batch_size": 12, "optimize_epochs": 4, **changes}
    assert train([*options(dataset=f"imagefolder:{root}", **settings), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def found(photos, tmp_path_factory):
    """A run on photographs that are not square; not to be changed."""
    torch.set_num_threads(1)
    return trained(photos, tmp_path_factory.mktemp("found") / "run", image_size=8)


def evaluated(folder, **settings):
    """Labels and probabilities of the test images, as the data layer gives them to an evaluation."""
    config = make_config(**{"limit_train": None, "limit_test": None, **settings})
    data, network = load_data(config, 12, 0, CPU), asose_fast.load(folder)
    with torch.no_grad():
        parts = [(y, network(x).softmax(1)) for x, y in data.test.batches(0)]
    return torch.cat([y for y, _ in parts]), torch.cat([p for _, p in parts])


@pytest.mark.parametrize(
    ("size", "mode", "image_size"), [((14, 10), "RGB", 8), ((9, 9), "L", None), ((40, 60), "L", 7)]
)
def test_predictions_are_those_of_the_evaluation(tmp_path, size, mode, image_size):
    root = write_photos(tmp_path / "photos", size, mode)
    folder = trained(root, tmp_path / "run", image_size=image_size)
    labels, expected = evaluated(folder, dataset=f"imagefolder:{root}", image_size=image_size)
    got = Predictor(folder).predict(root / "test", batch_size=5)
    by_class = sorted(zip(got.labels, got.probabilities.tolist(), strict=True))
    assert [name for name, _ in by_class] == [CLASSES[y] for y in labels.sort().values]
    rows = sorted(zip([CLASSES[y] for y in labels], expected.tolist(), strict=True))
    torch.testing.assert_close(torch.tensor([p for _, p in by_class]), torch.tensor([p for _, p in rows]))
    assert got.accuracy == json.loads((folder / "summary.json").read_text())["test_accuracy"]


@pytest.mark.parametrize("with_normalization", [False, True])
@pytest.mark.parametrize("format", ["module", "pt2", "onnx"])
def test_exported_networks_predict_the_same(found, photos, tmp_path, format, with_normalization):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    suffix = {"module": ".py", "pt2": ".pt2", "onnx": ".onnx"}[format]
    export(found, format, tmp_path / f"net{suffix}", with_normalization=with_normalization)
    here, there = Predictor(tmp_path / f"net{suffix}"), Predictor(found)
    assert here.classes == there.classes == CLASSES
    got, expected = (predictor.predict(photos / "test") for predictor in (here, there))
    assert got.paths == expected.paths
    assert {path.suffix for path in tmp_path.iterdir()} <= {suffix, ".pt"}  # and no cache
    torch.testing.assert_close(got.probabilities, expected.probabilities)


def test_images_are_found_in_folders_of_any_kind(photos, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "bee" / "deeper" / "ant").mkdir(parents=True)
    one = photos / "test" / "cow" / "000.png"
    for place in ("flat/a.png", "bee/b.png", "bee/deeper/c.png", "bee/deeper/ant/d.png"):
        shutil.copy(one, tmp_path / place)
    (tmp_path / "flat" / "notes.txt").write_text("x")
    images, notes = find([tmp_path, one, str(one)], CLASSES)
    assert {path.rpartition("/")[2]: label for path, label in images} == {
        "a.png": None,
        "b.png": "bee",
        "c.png": "bee",
        "d.png": "bee",
        "000.png": "cow",
    }
    assert len(images) == 5
    assert notes == [f"{tmp_path}: files of which no image is read are left out: 1 .txt"]
    assert [label for _, label in find([tmp_path / "bee" / "deeper" / "ant"], CLASSES)[0]] == ["ant"]


def test_all_that_is_missing_or_broken_is_named_and_nothing_is_written(found, photos, tmp_path, capsys):
    out = tmp_path / "p.csv"
    with pytest.raises(DataNotFoundError, match=r"there is no .*none\.png, .*nothing: give"):
        Predictor(found).predict([tmp_path / "none.png", photos, tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "table.csv").write_text("x")
    with pytest.raises(DataNotFoundError, match=r"there are no images in .*empty\. .*1 \.csv"):
        Predictor(found).predict(tmp_path / "empty")
    with pytest.raises(DataNotFoundError, match="no images are given"):
        Predictor(found).predict([])
    copy = shutil.copytree(photos / "test", tmp_path / "test")
    (copy / "ant" / "000.png").write_text("no image")
    cut = copy / "cow" / "003.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    assert main([str(found), str(copy), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 images cannot be used:\n")
    assert "ant/000.png" in error
    assert "cow/003.png" in error
    (copy / "ant" / "000.png").unlink()
    with pytest.raises(DataError, match=r"cannot read the image .*cow/003\.png"):  # whose header is whole
        Predictor(found).predict(copy, batch_size=2)
    assert not out.exists()


def test_a_csv_has_a_row_for_each_image(found, photos, tmp_path, capsys):
    out = tmp_path / "deep" / "p.csv"
    assert main([str(found), str(photos / "test"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["path", "class", "probability", "label", *(f"p({name})" for name in CLASSES)]
    assert len(rows) == 21
    for row in rows:
        values = {name: float(row[f"p({name})"]) for name in CLASSES}
        assert float(row["probability"]) == values[row["class"]] == max(values.values())
        assert sum(values.values()) == pytest.approx(1, abs=1e-5)
        assert f"/{row['label']}/" in row["path"]
    right = sum(row["class"] == row["label"] for row in rows)
    assert f"accuracy {100 * right / 21:.1f} % [" in said
    assert "of 21 images, by the class folders" in said
    assert "the first 20 of 21 images" in said
    assert "resized and cropped to 8x8, the network's size: 21 of 21 images" in said
    error = refused(capsys, main, found, photos / "test", "--out", out)
    assert "is there already: give another --out, or --overwrite" in error
    assert main([str(found), str(photos / "test" / "ant"), "--out", str(out), "--top=2", "--overwrite"]) == 0
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["path", "class", "probability", "label", "class_2", "probability_2"]
    assert len(rows) == 7
    assert all(float(row["probability"]) >= float(row["probability_2"]) for row in rows)


def test_a_name_that_is_no_text_is_written_as_it_is(found, photos, tmp_path, capsys):
    name = b"caf\xe9.png"
    image = (photos / "test" / "bee" / "000.png").read_bytes()
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(image)
    except OSError:
        pytest.skip("this file system has no such names")
    for out in (tmp_path / "p.csv", tmp_path / "p.json"):
        assert main([str(found), str(tmp_path), "--out", str(out)]) == 0
    assert bytes(tmp_path) + b"/" + name in (tmp_path / "p.csv").read_bytes()
    assert json.loads((tmp_path / "p.json").read_text())["images"][0]["path"].endswith(os.fsdecode(name))


def test_json_has_the_probabilities_by_class(found, photos, tmp_path, capsys):
    out, flat = tmp_path / "p.json", tmp_path / "flat"
    flat.mkdir()
    shutil.copy(photos / "test" / "bee" / "000.png", flat)
    assert main([str(found), str(flat), "--out", str(out)]) == 0
    assert "accuracy" not in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written["classes"] == list(CLASSES)
    assert written["accuracy"] is None
    (image,) = written["images"]
    assert (image["path"], image["label"]) == (str(flat / "000.png"), None)
    assert image["class"] == next(iter(image["probabilities"]))
    assert set(image["probabilities"]) == set(CLASSES)
    assert main([str(found), str(flat), "--out", str(out), "--top=1", "--overwrite"]) == 0
    (image,) = json.loads(out.read_text())["images"]
    assert image["probabilities"] == {image["class"]: image["probability"]}


def test_colours_that_the_network_does_not_see_are_told(tmp_path, photos):
    grey = make_derived([BlockSpec(("sep_conv_3x3",), 4, 4)], in_channels=1)
    run = make_run(tmp_path / "run", grey, image_size=9)
    predictor = Predictor(run)
    assert predictor.predict(photos / "test" / "ant" / "000.png").probabilities.shape == (1, 5)
    assert predictor.notes[1] == "seen in grey, as the network was trained: 1 of 1 images"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("net.txt", "x", "is no network: give a run folder, or what export wrote"),
        ("net.py", "x = 1", "cannot be used as a network that export wrote: 'load' is missing"),
        ("net.pt2", "x", "cannot be used as a network that export wrote: it is no zip archive"),
        ("net.onnx", "x", "cannot be used as a network that export wrote"),
        (None, "", "there is no "),
    ],
)
def test_what_is_no_network_is_refused(tmp_path, photos, capsys, name, content, told):
    pytest.importorskip("onnxruntime")
    path = tmp_path / (name or "nothing")
    if name:
        path.write_text(content)
    assert told in refused(capsys, main, path, photos)


def test_a_run_that_has_not_ended_is_refused(tmp_path, photos, capsys):
    (tmp_path / "run").mkdir()
    assert "holds no finished run" in refused(capsys, main, tmp_path / "run", photos)


def test_a_file_of_another_kind_is_refused_before_anything_is_read(tmp_path, capsys):
    assert "--out must end in .csv or .json" in refused(capsys, main, "no run", "no image", "--out", "p.txt")
    assert "top" in refused(capsys, main, "no run", "no image", "--top", 0)


def test_a_module_of_an_older_release_does_not_say_the_size(found, photos, tmp_path):
    export(found, "module", tmp_path / "net.py")
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace("IMAGE_SIZE = 8\n", ""))
    with pytest.raises(ValueError, match="does not say which side the images of the training had: export the run"):
        Predictor(tmp_path / "net.py")
