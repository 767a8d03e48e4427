import numpy as np
import torch

from asose_fast.data.seeds import generator


def draw(*key):
    return torch.randint(0, 2**62, (4,), generator=generator(*key)).tolist()


def test_a_stream_is_fixed_by_its_key_and_differs_from_all_others():
    keys = [
        (seed, name, use, epoch)
        for seed in (-1, 0, 1)
        for name in ("train", "valid")
        for use in "ab"
        for epoch in (0, 1)
    ]
    draws = [draw(*key) for key in keys]
    assert draws == [draw(*key) for key in keys]
    assert len({tuple(numbers) for numbers in draws}) == len(keys)


def test_integers_of_any_type_name_the_same_stream():
    assert draw(3, "train", 5) == draw(np.int64(3), "train", np.int32(5))
