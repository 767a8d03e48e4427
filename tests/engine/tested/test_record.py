"""What a run records of its test images: figures of each class, and its worst mistakes with their pictures."""

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from asose_fast.data import load_data
from asose_fast.engine.tested.answers import Answers
from asose_fast.engine.tested.picture import MOST, is_picture, picture
from asose_fast.engine.tested.record import FILE, WORST, Tested, load, recorded
from asose_fast.retrain import main as retrain
from tests.helpers import CPU, make_config


def drawn(classes, count, right=0.6):
    """Answers of which about this share is right."""
    generator = torch.Generator().manual_seed(0)
    labels, others = torch.randint(classes, (2, count), generator=generator)
    predicted = torch.where(torch.rand(count, generator=generator) < right, labels, others)
    losses = torch.rand(count, generator=generator, dtype=torch.float64)
    return Answers(labels, predicted, torch.full((count,), 0.5, dtype=torch.float64), losses)


@pytest.fixture(scope="module")
def data():
    return load_data(make_config(limit_test=None), 20, 0, CPU)


def test_figures_of_each_class_are_those_of_scikit_learn(data):
    found = drawn(10, len(data.test))
    record = recorded(found, data)
    y, said = found.labels.numpy(), found.predicted.numpy()
    matrix = np.zeros((10, 10), int)
    for label, predicted, count in record.confusion:
        matrix[label, predicted] = count
    assert (matrix == confusion_matrix(y, said, labels=range(10))).all()
    precision, recall, f1, images = precision_recall_fscore_support(y, said, labels=range(10))
    for k, of_class in enumerate(record.per_class):
        assert (of_class.name, of_class.images) == (str(k), images[k])
        assert of_class.accuracy == pytest.approx(recall[k])
        assert of_class.precision == pytest.approx(precision[k])
        assert of_class.f1 == pytest.approx(f1[k])
        most = np.where(np.arange(10) == k, 0, matrix[k])
        assert of_class.taken_for == (str(most.argmax()), most.max())


def test_shares_that_are_not_defined_are_null():
    record = Tested(("a", "b", "c"), ((0, 0, 3), (0, 1, 2)), ())
    a, b, c = (of_class.to_dict() for of_class in record.per_class)
    assert a == {"class": "a", "images": 5, "right": 3, "accuracy": 0.6, "precision": 1.0, "f1": 0.75}
    assert b == {"class": "b", "images": 0, "right": 0, "accuracy": None, "precision": 0.0, "f1": 0.0}
    assert c == {"class": "c", "images": 0, "right": 0, "accuracy": None, "precision": None, "f1": None}


def test_the_mistakes_of_the_highest_loss_are_kept_with_their_images(data):
    found = drawn(10, len(data.test))
    losses = found.losses.clone()
    losses[(found.labels == found.predicted)] = 9  # a right answer is no mistake, whatever its loss
    first = int((found.labels != found.predicted).nonzero()[7])
    second = int((found.labels != found.predicted).nonzero()[2])
    losses[first], losses[second] = math.nan, 1e30
    record = recorded(found._replace(losses=losses), data)
    wrong = [i for i in range(len(losses)) if found.labels[i] != found.predicted[i] and i not in (first, second)]
    expected = [first, second, *sorted(wrong, key=lambda i: -losses[i])][:WORST]
    assert [mistake.name for mistake in record.mistakes] == [f"image {i}" for i in expected]
    assert [mistake.loss for mistake in record.mistakes] == [None, None, *losses[expected[2:]].tolist()]
    images = torch.cat([x for x, _ in data.test.batches(0)])
    for mistake, i in zip(record.mistakes, expected, strict=True):
        assert (mistake.label, mistake.predicted) == (found.labels[i], found.predicted[i])
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(mistake.picture.partition(",")[2]))))
        pixels = (images[i, 0] * data.std[0] + data.mean[0]) * 255
        assert (shown == pixels.round().byte().numpy()).all()


def test_without_a_mistake_there_is_none(data):
    found = drawn(10, len(data.test), right=1)
    record = recorded(found, data)
    assert record.mistakes == ()
    assert all(label == predicted for label, predicted, _ in record.confusion)


@pytest.mark.parametrize(("side", "channels", "kind"), [(32, 3, "png"), (33, 1, "jpeg"), (400, 3, "jpeg")])
def test_pictures_are_small(side, channels, kind):
    noise = torch.randint(0, 256, (side, side, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    uri = picture(noise)
    assert uri.startswith(f"data:image/{kind};base64,")
    assert is_picture(uri)
    assert len(uri) < MOST / 2
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.size == (min(side, 96),) * 2
    assert shown.mode == ("L" if channels == 1 else "RGB")


def test_what_is_written_is_read(tmp_path, data):
    record = recorded(drawn(10, len(data.test)), data)
    record.save(tmp_path)
    assert load(tmp_path) == record


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [1]},
        {"classes": []},
        {"confusion": [[0, 10, 1]]},
        {"confusion": [[0, -1, 1]]},
        {"confusion": [[0, 1]]},
        {"confusion": 3},
        {"mistakes": [{"name": "x"}]},
        {"picture": "https://elsewhere/x.png"},
        {"picture": "data:image/svg+xml;base64,AAAA"},
        {"picture": 'data:image/png;base64,AA" onload="x'},
        {"probability": 2.0},
        {"probability": math.nan},
        {"label": 10},
        {"name": None},
    ],
)
def test_a_damaged_record_is_refused(tmp_path, data, change):
    recorded(drawn(10, len(data.test)), data).save(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    (values if set(change) <= set(values) else values["mistakes"][0]).update(change)
    (tmp_path / FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"tested\.json is damaged: "):
        load(tmp_path)


def test_a_search_and_a_training_record_their_test_images(run, capsys):
    assert retrain([str(run), "--epochs=1", "--out", str(run / "again")]) == 0
    for folder in (run, run / "again"):
        summary, record = json.loads((folder / "summary.json").read_text()), load(folder)
        assert sum(count for *_, count in record.confusion) == summary["images"]["test"] == 40
        assert sum(of_class["right"] for of_class in summary["per_class"]) / 40 == summary["test_accuracy"]
        assert summary["per_class"] == [of_class.to_dict() for of_class in record.per_class]
        assert len(record.mistakes) == min(WORST, round(40 * (1 - summary["test_accuracy"])))
        assert [of_class["class"] for of_class in summary["per_class"]] == list(record.classes)
