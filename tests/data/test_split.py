import itertools

import pytest
import torch

from asose_fast.data import DataConfig, DataError, Split, load_data
from asose_fast.data.part import Part
from asose_fast.data.pool import MemoryPool
from asose_fast.data.transform import Transform

CPU = torch.device("cpu")
SPLITS = ("train", "valid", "test")


def digits(seed=0, device=CPU, batch_size=28, **settings):
    return load_data(DataConfig(limit_train=210, limit_test=90, **settings), batch_size, seed, device)


def equal(ours, theirs):
    return all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in itertools.zip_longest(ours, theirs)
    )


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_resumes_bit_for_bit_from_every_batch(name, augment):
    split, again = getattr(digits(), name), getattr(digits(), name)
    batches = list(split.batches(3, shuffle=True, augment=augment))
    for start in range(split.num_batches() + 1):
        assert equal(again.batches(3, start=start, shuffle=True, augment=augment), batches[start:])


def test_epochs_and_seeds_differ_in_order_and_augmentation():
    data = digits(mirror=True)
    first, second = (next(data.train.batches(epoch)) for epoch in (0, 1))
    assert not torch.equal(first[1], second[1])
    first, second = (next(data.train.batches(epoch, shuffle=False)) for epoch in (0, 1))
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(next(digits(seed=1).train.batches(0))[1], next(data.train.batches(0))[1])


def test_two_batches_of_an_epoch_are_augmented_differently():
    one = torch.randint(0, 256, (1, 8, 8, 1), dtype=torch.uint8)
    pool = MemoryPool(one.expand(16, -1, -1, -1).contiguous(), torch.zeros(16, dtype=torch.int64))
    transform = Transform.normalising((0.5,), (0.5,), 1, True, CPU)
    split = Split("train", pool, torch.arange(16), transform, batch_size=8, seed=0, shuffle=True, augment=True)
    (first, _), (second, _) = split.batches(0)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", SPLITS)
def test_every_image_comes_once_and_the_last_batch_may_be_smaller(name):
    split = getattr(digits(), name)
    sizes = [len(y) for _, y in split.batches(0)]
    assert sizes == [28] * (len(split) // 28) + [len(split) % 28]
    assert len(sizes) == split.num_batches()
    shuffled = torch.cat([x for x, _ in split.batches(5, shuffle=True, augment=False)])
    fixed = torch.cat([x for x, _ in split.batches(5, shuffle=False, augment=False)])
    assert sorted(shuffled.flatten(1).tolist()) == sorted(fixed.flatten(1).tolist())


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("memory_limit_gb", [0, 1])
def test_parts_of_batches_and_turns_make_up_the_epoch_bit_for_bit(augment, memory_limit_gb):
    split = digits(mirror=True, batch_size=31, memory_limit_gb=memory_limit_gb).train  # the last batch has 5 images
    whole = list(split.batches(3, start=1, augment=augment))
    parts = [split.batches(3, start=1, augment=augment, part=Part(i, 6)) for i in range(6)]
    together = [tuple(torch.cat(rows) for rows in zip(*batch, strict=True)) for batch in zip(*parts, strict=True)]
    assert equal(together, whole)
    assert min(len(x) for x, _ in split.batches(3, part=Part(0, 6))) == 0
    turns = [list(split.batches(3, start=1, augment=augment, turns=Part(i, 6))) for i in range(6)]
    assert equal((turns[n % 6][n // 6] for n in range(len(whole))), whole)


@pytest.mark.parametrize("name", ["valid", "test"])
def test_valid_and_test_come_in_one_order_and_as_they_are_unless_asked(name):
    split = getattr(digits(), name)
    assert equal(split.batches(0), split.batches(1, shuffle=False, augment=False))
    assert not equal(split.batches(0), split.batches(0, shuffle=True))


def test_the_fixed_order_mixes_the_classes():
    assert len(next(digits().valid.batches(0))[1].unique()) > 5


def test_augment_off_leaves_the_training_images_as_they_are():
    data = digits(augment=False)
    assert equal(data.train.batches(0), data.train.batches(0, augment=False))


def test_the_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(1)
    batches = list(digits().train.batches(0))
    streamed = list(digits(memory_limit_gb=0).train.batches(0))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(batches, streamed)


@pytest.mark.parametrize("start", [-1, 7])
def test_a_start_outside_of_the_epoch_raises_before_iteration(start):
    with pytest.raises(DataError, match=f"start must be 0 to 6, the batches of train, got {start}"):
        digits().train.batches(0, start=start)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("memory_limit_gb", [0, 1])
def test_cuda_gives_the_batches_of_the_cpu_without_a_synchronisation(memory_limit_gb):
    data = digits(device=torch.device("cuda"), memory_limit_gb=memory_limit_gb)
    list(data.train.batches(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(data.train.batches(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (cpu_x, cpu_y) in zip(batches, digits().train.batches(0), strict=True):
        torch.testing.assert_close(x.cpu(), cpu_x)
        assert torch.equal(y.cpu(), cpu_y)
        assert x.is_contiguous(memory_format=torch.channels_last)
