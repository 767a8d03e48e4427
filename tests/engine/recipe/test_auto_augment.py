"""Policies of torchvision on normalised batches: what they see, what comes back, and that a seed decides it all."""

import importlib.util

import pytest
import torch

from asose_fast.data.seeds import generator
from asose_fast.engine.recipe import auto_augment
from asose_fast.engine.recipe.auto_augment import AutoAugment

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def make_batch():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    shape = (3, 1, 1)
    return pixels, (pixels / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)


def test_a_policy_sees_the_pixels_and_its_answer_is_normalised():
    pixels, x = make_batch()
    seen = []

    def invert(image):
        seen.append(image)
        return 255 - image

    changed = AutoAugment(invert, MEAN, STD)(x, generator(0, "test"))
    assert torch.equal(torch.stack(seen), pixels)
    shape = (3, 1, 1)
    expected = ((255 - pixels) / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    torch.testing.assert_close(changed, expected)
    assert changed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(AutoAugment(lambda image: image, MEAN, STD)(x, generator(0, "test")), x)


def test_its_draws_are_of_the_generator_and_leave_the_global_state_alone():
    _, x = make_batch()
    noisy = AutoAugment(lambda image: image + torch.randint(0, 9, image.shape, dtype=torch.uint8), MEAN, STD)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = noisy(x, generator(0, "test"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(noisy(x, generator(0, "test")), first)
    assert not torch.equal(noisy(x, generator(1, "test")), first)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("policy", ["trivial", "rand"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_of_torchvision(policy, channels):
    _, x = make_batch()
    x = x[:, :channels]
    augment = AutoAugment.make(policy, MEAN[:channels], STD[:channels])
    outputs = [augment(x, generator(seed, "test")) for seed in (0, 0, 1)]
    assert outputs[0].shape == x.shape
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_without_torchvision_it_says_so(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'torchvision'")

    monkeypatch.setattr(auto_augment, "import_torchvision", missing)
    with pytest.raises(ValueError, match="auto_augment: rand needs torchvision: No module named 'torchvision'"):
        AutoAugment.make("rand", MEAN, STD)
