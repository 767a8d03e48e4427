import pytest
import torch
from PIL import Image

from asose_fast.data import DataConfig, DataError, load_data

CPU = torch.device("cpu")


def digits(seed=0, batch_size=16, trained="each", **settings):
    return load_data(DataConfig(**settings), batch_size, seed, CPU, trained=trained)


def content(split):
    """Images and labels in the fixed order, unaugmented."""
    batches = list(split.batches(0, shuffle=False, augment=False))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def in_units_of_pixels(split, data):
    x, _ = content(split)
    std, mean = (torch.tensor(values)[:, None, None] for values in (data.std, data.mean))
    return ((x * std + mean) * 255).round().byte()


def test_the_splits_of_digits_are_disjoint_stratified_and_whole():
    data = digits()
    assert data.classes == tuple("0123456789")
    assert (data.channels, data.image_size) == (1, 8)
    assert len(data.train) + len(data.valid) + len(data.test) == 1797
    images = torch.cat([in_units_of_pixels(split, data) for split in (data.train, data.valid, data.test)])
    assert len(images.unique(dim=0)) == 1797  # no two of the set are the same
    of_class = torch.stack([torch.bincount(content(split)[1]) for split in (data.train, data.valid, data.test)])
    share = of_class / of_class.sum(0)
    assert ((share - torch.tensor([[0.6], [0.2], [0.2]])).abs() < 0.005).all()


def test_the_test_split_depends_neither_on_the_seed_nor_on_the_training_images():
    data, other = digits(), digits(seed=5, limit_train=100, valid_fraction=0.5, batch_size=7)
    assert torch.equal(in_units_of_pixels(data.test, data), in_units_of_pixels(other.test, other))
    assert torch.equal(content(data.test)[1], content(other.test)[1])
    limited = digits(limit_test=50), digits(seed=5, limit_test=50)
    assert torch.equal(*(in_units_of_pixels(some.test, some) for some in limited))
    assert torch.bincount(content(limited[0].test)[1]).tolist() == [5] * 10


def test_another_seed_divides_otherwise():
    assert not torch.equal(content(digits().valid)[0], content(digits(seed=1).valid)[0])


def test_limit_train_is_divided_into_training_and_validation():
    data = digits(limit_train=200, valid_fraction=0.2)
    assert (len(data.train), len(data.valid)) == (160, 40)
    assert torch.bincount(content(data.valid)[1]).tolist() == [4] * 10


def test_the_training_split_has_mean_0_and_std_1():
    x, _ = content(digits().train)
    torch.testing.assert_close(x.double().mean(), torch.tensor(0.0).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.double().std(correction=0), torch.tensor(1.0).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_streaming_gives_the_batches_of_memory_bit_for_bit(write_classes, workers):
    root = write_classes({"a": 14, "b": 23})
    splits = [
        load_data(DataConfig(f"imagefolder:{root}", memory_limit_gb=limit, workers=workers), 4, 0, CPU).train
        for limit in (4.0, 0.0)
    ]
    for start in (0, 3, splits[0].num_batches()):
        for (x, y), (streamed_x, streamed_y) in zip(*(s.batches(2, start=start) for s in splits), strict=True):
            assert torch.equal(x, streamed_x)
            assert torch.equal(y, streamed_y)
            assert streamed_x.is_contiguous(memory_format=torch.channels_last)


def test_memory_limit_counts_decoded_bytes_of_all_splits():
    size = 1797 * 8 * 8
    assert type(digits(memory_limit_gb=size / 1e9).train._pool).__name__ == "MemoryPool"
    assert type(digits(memory_limit_gb=(size - 1) / 1e9).train._pool).__name__ == "StreamPool"


def test_a_constant_channel_is_not_divided_by_zero(write_classes):
    root = write_classes({"a": 6, "b": 6})
    for path in root.rglob("*.png"):
        Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    data = load_data(DataConfig(f"imagefolder:{root}"), 2, 0, CPU)
    assert not content(data.test)[0].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"limit_train": 9}, "limit_train must be at least 20, .* for each of the 10 classes of digits, got 9"),
        ({"limit_test": 9}, "limit_test must be at least 10, one image for each class of digits, got 9"),
        (
            {"limit_train": 100, "batch_size": 30},
            r"digits leaves 20 validation images, fewer than one batch of 30: lower batch_size to 20 or less, or "
            r"change valid_fraction \(0.25\) or limit_train \(100\)",
        ),
        ({"limit_train": 100, "batch_size": 90}, "digits leaves 80 training images, fewer than one batch of 90"),
        (
            {"limit_train": 100, "batch_size": 90, "trained": "train"},
            "digits leaves 80 training images, fewer than one batch of 90",
        ),
        (
            {"limit_train": 100, "batch_size": 101, "trained": "joined"},
            r"digits leaves 100 training and validation images, fewer than one batch of 101: lower batch_size to "
            r"100 or less, or change limit_train \(100\)",
        ),
    ],
)
def test_too_few_images_are_told_in_numbers(settings, message):
    with pytest.raises(DataError, match=message):
        digits(**settings)


@pytest.mark.parametrize(("trained", "batch_size"), [("train", 80), ("joined", 100)])
def test_what_is_only_measured_may_be_less_than_a_batch(trained, batch_size):
    data = digits(limit_train=100, batch_size=batch_size, trained=trained)
    assert (len(data.train), len(data.valid), len(data.joined.train)) == (80, 20, 100)
