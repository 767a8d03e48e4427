"""Balanced classes: the weights, the loss with smoothed and mixed targets, where they hold, and the hint."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from asose_fast.data import load_data
from asose_fast.engine.comparison.training import training_config
from asose_fast.engine.recipe.class_weights import balanced, hints
from asose_fast.engine.recipe.recipe import Recipe
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.engine.step.steps import classification
from asose_fast.engine.task import ImageTask
from asose_fast.retrain import main as retrain
from asose_fast.train import main
from tests.engine.test_retrainer import make_retrainer, make_spec
from tests.helpers import CPU, make_config, make_trainer, options

LABELS = torch.tensor([0] * 6 + [1] * 2 + [2] * 4)


def test_every_class_counts_the_same_and_the_mean_over_the_images_is_1():
    weights = balanced(LABELS, 3)
    torch.testing.assert_close(weights, torch.tensor([12 / 18, 12 / 6, 12 / 12]))
    assert float(weights[LABELS].mean()) == pytest.approx(1)
    torch.testing.assert_close(torch.bincount(LABELS, weights[LABELS]), torch.full((3,), 4.0))
    torch.testing.assert_close(balanced(LABELS, 4), torch.tensor([12 / 18, 12 / 6, 12 / 12, 0]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_images_that_are_repeated(smoothing):
    """With whole weights an image of class c is as good as w_c images."""
    torch.manual_seed(0)
    scores, weights = torch.randn(12, 3, requires_grad=True), torch.tensor([1.0, 3.0, 2.0])
    times = weights[LABELS].long()
    result = classification(scores, LABELS, smoothing, weights)
    repeated = F.cross_entropy(
        scores.repeat_interleave(times, 0), LABELS.repeat_interleave(times), label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(result.loss, repeated / 12)
    ours, theirs = (torch.autograd.grad(loss, scores)[0] for loss in (result.loss, repeated / 12))
    torch.testing.assert_close(ours, theirs)
    assert int(result.correct) == int((scores.argmax(1) == LABELS).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mixed_image_counts_as_its_shares_of_two(smoothing):
    torch.manual_seed(0)
    scores, weights, share = torch.randn(12, 3), balanced(LABELS, 3), 0.3
    one, other = F.one_hot(LABELS, 3).float(), F.one_hot(LABELS.roll(1), 3).float()
    mixed = classification(scores, share * one + (1 - share) * other, smoothing, weights).loss
    apart = [classification(scores, y, smoothing, weights).loss for y in (LABELS, LABELS.roll(1))]
    torch.testing.assert_close(mixed, share * apart[0] + (1 - share) * apart[1])


def test_equal_weights_are_no_weights_and_a_batch_may_be_empty():
    scores = torch.randn(12, 3)
    plain = classification(scores, LABELS, 0.1).loss
    torch.testing.assert_close(classification(scores, LABELS, 0.1, torch.ones(3)).loss, plain)
    empty = classification(scores[:0, :1], LABELS[:0], 0.1, torch.ones(3))
    assert (float(empty.loss), empty.images) == (0.0, 0)


def draw(folder, sizes):
    for part in ("train", "test"):
        for name, size in sizes.items():
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(size if part == "train" else 2):
                Image.effect_noise((8, 8), 20 + 60 * (name == "rare")).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("uneven"), {"often": 48, "rare": 12})


def of(folder):
    return {"dataset": f"imagefolder:{folder}", "limit_train": None, "limit_test": None, "batch_size": 12}


def settings_of(folder, **changes):
    return make_config(**of(folder), **changes)


def test_the_weights_are_those_of_the_images_that_are_trained_on(uneven):
    config = settings_of(uneven, class_weights="balanced", valid_fraction=0.5)
    data = load_data(config, 12, 0, CPU)
    task = ImageTask(config, data, CPU)
    expected = torch.tensor([30 / 48, 30 / 12])
    torch.testing.assert_close(task.recipe.class_weights, expected)
    y, scores = torch.tensor([0, 1, 0]), torch.randn(3, 2)
    weighted = (F.cross_entropy(scores, y, reduction="none") * expected[y]).mean()
    torch.testing.assert_close(task.objective(scores, y).loss, weighted)
    torch.testing.assert_close(task.recipe.objective(scores, y).loss, weighted)
    fewer = dataclasses.replace(data, train=data.valid)
    torch.testing.assert_close(Recipe.make(config, 0, fewer, CPU).class_weights, expected)


def test_the_weights_hold_in_every_phase_and_are_off_by_default(uneven, tmp_path):
    histories = []
    for name, weights in (("plain", {}), ("weighted", {"class_weights": "balanced"})):
        trainer = make_trainer(tmp_path / name, **of(uneven), **weights)
        trainer.run()
        histories.append(trainer.state.history)
    losses = [[record["train_loss"] for record in history] for history in histories]
    assert all(one != other for one, other in zip(*losses, strict=True))


def test_the_rare_class_is_found_more_often(tmp_path):
    """Noisy threes and, a sixth as many, noisy eights."""
    digits, noise = load_digits(), np.random.default_rng(0)
    for digit, count in ((3, 120), (8, 20)):
        images = digits.images[digits.target == digit]
        for part, chosen in (("train", images[:count]), ("test", images[120:170])):
            (tmp_path / part / str(digit)).mkdir(parents=True)
            for number, image in enumerate(chosen):
                pixels = (15 * image + noise.normal(0, 75, (8, 8))).clip(0, 255).astype("uint8")
                Image.fromarray(pixels).save(tmp_path / part / str(digit) / f"{number}.png")
    found = {}
    for weights in (None, "balanced"):
        changes = {"limit_train": None, "limit_test": None, "epochs": 12, "class_weights": weights}
        retrainer = make_retrainer(make_spec(classes=2), dataset=f"imagefolder:{tmp_path}", **changes)
        retrainer.run()
        said = retrainer.state.answers()
        found[weights] = float((said.predicted == said.labels)[said.labels == 1].float().mean())
    assert found["balanced"] > found[None] + 0.25


def test_the_hint_comes_where_a_class_is_three_times_as_large(uneven, tmp_path):
    config = settings_of(uneven)
    (said,) = hints(config, load_data(config, 12, 0, CPU))
    assert said == (
        "the classes differ in size: 36 training images of often, 9 of rare. Where each class is to count the same, "
        "give --class_weights balanced"
    )
    assert not hints(dataclasses.replace(config, class_weights="balanced"), load_data(config, 12, 0, CPU))
    nearer = settings_of(draw(tmp_path, {"often": 40, "rare": 16}))
    assert not hints(nearer, load_data(nearer, 12, 0, CPU))


def test_search_retrain_and_compare_take_the_weights(uneven, tmp_path, capsys):
    run, hint = tmp_path / "run", "give --class_weights balanced"
    assert main([*options(**of(uneven)), "--class_weights", "balanced", f"--out={run}"]) == 0
    assert hint not in capsys.readouterr().err
    assert retrain([str(run), "--epochs=1", f"--out={tmp_path / 'again'}"]) == 0
    assert hint not in capsys.readouterr().err
    assert "class_weights: balanced" in (tmp_path / "again" / "config.yaml").read_text()
    assert training_config(settings_of(uneven, class_weights="balanced"), 1, 0).class_weights == "balanced"
    assert retrain([str(run), "--epochs=1", "--class_weights=null", f"--out={tmp_path / 'plain'}"]) == 0
    assert hint in capsys.readouterr().err


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="class_weights must be one of balanced, or None, got 'even'"):
        RetrainConfig(class_weights="even")
