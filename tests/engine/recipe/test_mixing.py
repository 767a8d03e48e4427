"""Mixup and CutMix: every pixel and target against loops, shares against the moments of Beta."""

import statistics

import pytest
import torch

from asose_fast.data.seeds import generator
from asose_fast.engine.recipe import mixing
from asose_fast.engine.recipe.mixing import cut_mix, draw_share, mix_up, mixed
from asose_fast.engine.recipe.recipe import Recipe
from asose_fast.engine.step.steps import classification
from asose_fast.training_config import RecipeConfig


def make_batch(images=5, height=6, width=8):
    torch.manual_seed(0)
    return torch.randn(images, 3, height, width), torch.eye(7)[torch.arange(images)]


def test_mixup_blends_neighbours():
    x, y = make_batch()
    images, targets = mix_up(x, y, 0.7)
    for i in range(5):
        torch.testing.assert_close(images[i], 0.7 * x[i] + 0.3 * x[i - 1])
        torch.testing.assert_close(targets[i], 0.7 * y[i] + 0.3 * y[i - 1])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_cutmix_moves_a_rectangle_and_counts_its_pixels(share, seed):
    x, y = make_batch()
    before = x.clone()
    images, targets = cut_mix(x, y, share, generator(seed, "test"))
    assert torch.equal(x, before)
    foreign = (images == x.roll(1, 0)).all(1)
    own = (images == x).all(1)
    assert (foreign ^ own).all()  # every pixel is of one of the two
    assert (foreign == foreign[0]).all()  # at one place in all images
    rows, columns = foreign[0].any(1), foreign[0].any(0)
    assert torch.equal(foreign[0], rows[:, None] & columns)  # a rectangle
    side = (1 - share) ** 0.5
    assert rows.sum() <= int(6 * side)
    assert columns.sum() <= int(8 * side)
    moved = int(foreign[0].sum()) / 48
    for i in range(5):
        torch.testing.assert_close(targets[i], (1 - moved) * y[i] + moved * y[i - 1])


def test_rectangles_lie_everywhere():
    x, y = make_batch()
    places = [(cut_mix(x, y, 0.8, generator(seed, "test"))[0] != x).any(1)[0] for seed in range(200)]
    assert torch.stack(places).any(0).all()


@pytest.mark.parametrize("concentration", [0.2, 1.0, 5.0])
def test_shares_have_the_moments_of_beta(concentration):
    shares = [draw_share(concentration, generator(0, "test", i)) for i in range(3000)]
    variance = 1 / (4 * (2 * concentration + 1))
    assert statistics.mean(shares) == pytest.approx(0.5, abs=5 * (variance / 3000) ** 0.5)
    assert statistics.variance(shares) == pytest.approx(variance, rel=0.1)
    assert draw_share(concentration, generator(0, "test", 1)) == shares[1]


def test_each_batch_gets_one_of_the_two(monkeypatch):
    used = []
    monkeypatch.setattr(mixing, "mix_up", lambda x, y, share: used.append("up") or (x, y))
    monkeypatch.setattr(mixing, "cut_mix", lambda x, y, share, _: used.append("cut") or (x, y))
    x, labels = make_batch()[0], torch.arange(5)
    for both in range(300):
        mixed(x, labels, 7, 0.2, 1.0, generator(both, "test"))
    assert 100 < used.count("up") < 200
    used.clear()
    mixed(x, labels, 7, 0.2, 0.0, generator(0, "test"))
    mixed(x, labels, 7, 0.0, 1.0, generator(0, "test"))
    assert used == ["up", "cut"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_targets(smoothing):
    scores, (_, y) = torch.randn(5, 7), make_batch()
    targets = 0.7 * y + 0.3 * y.roll(1, 0)
    result = classification(scores, targets, smoothing)
    smooth = (1 - smoothing) * targets + smoothing / 7
    expected = -sum(float(smooth[i] @ scores[i].log_softmax(0)) for i in range(5)) / 5
    assert float(result.loss) == pytest.approx(expected, rel=1e-5)
    assert int(result.correct) == sum(int(scores[i].argmax()) == i for i in range(5))
    hard = classification(scores, torch.arange(5), smoothing)
    soft = classification(scores, y, smoothing)
    torch.testing.assert_close(hard.loss, soft.loss)
    assert hard.correct == soft.correct


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_so_many_batches_are_mixed_and_the_others_stay(share):
    x, y = make_batch()[0], torch.arange(5)
    config = RecipeConfig(mixup=1.0, cutmix=1.0, mix_share=share)
    recipe = Recipe(config, seed=0, classes=7, auto_augment=None, class_weights=None, distillation=None)
    batches = [recipe.batch(x, y, epoch=0, step=step) for step in range(400)]
    unmixed = [images is x and labels is y for images, labels in batches]
    assert statistics.mean(unmixed) == pytest.approx(1 - share, abs=0.07)
