import numpy as np
import pytest
import torch

from asose_fast.data.seeds import generator
from asose_fast.data.transform import Transform, _moved


def moved_slowly(image, down, right, mirrored, pad):
    """Pad with black, crop, mirror: one image, (H, W, C)."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    crop = padded[pad + down : pad + down + height, pad + right : pad + right + width]
    return crop[:, ::-1] if mirrored else crop


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_agrees_with_one_image_at_a_time(channels):
    pixels = torch.randint(1, 256, (5, 6, 6, channels), dtype=torch.uint8, generator=generator(0))
    pad = 2
    moves = torch.cartesian_prod(torch.arange(-pad, pad + 1), torch.arange(-pad, pad + 1), torch.arange(2)).T
    numbers = torch.arange(moves.shape[1]) % len(pixels)
    expected = [
        moved_slowly(pixels[number].numpy(), *move.tolist(), pad) for number, move in zip(numbers, moves.T, strict=True)
    ]
    assert np.array_equal(_moved(pixels, numbers, moves), np.stack(expected))


def transform(mirror=True, pad=2):
    return Transform.normalising((0.5, 0.25, 0.0), (0.5, 0.1, 2.0), pad, mirror, torch.device("cpu"))


def test_normalisation_is_value_minus_mean_over_std():
    pixels = torch.randint(0, 256, (5, 6, 6, 3), dtype=torch.uint8, generator=generator(0))
    x = transform()(pixels, torch.tensor([4, 1]), None)
    values = pixels[[4, 1]].double() / 255
    expected = (values - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([0.5, 0.1, 2.0])
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("augmented", [False, True])
def test_batches_are_float32_in_channels_last_memory(augmented):
    moves = transform().draw(4, generator(0)) if augmented else None
    x = transform()(torch.zeros(5, 6, 6, 3, dtype=torch.uint8), torch.arange(4), moves)
    assert x.shape == (4, 3, 6, 6)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mirror", [False, True])
def test_draws_cover_every_shift_and_mirror_only_where_allowed(mirror):
    down, right, mirrored = transform(mirror).draw(1000, generator(0))
    assert set(down.tolist()) == set(right.tolist()) == {-2, -1, 0, 1, 2}
    assert set(mirrored.tolist()) == ({0, 1} if mirror else {0})
