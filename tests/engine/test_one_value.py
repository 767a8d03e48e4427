"""Batches that come to one value a channel are refused before a run, and no others."""

import numpy as np
import pytest
from PIL import Image

from asose_fast.data import load_data
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from tests.helpers import CPU, make_trainer

REFUSED = r"batch_size 5 leaves a batch of 1 of the 16 images of train: at 4x4 pixels batch norm needs two images"


@pytest.fixture
def images(tmp_path):
    """A data set of 16 training and 6 validation images of a side."""
    rng = np.random.default_rng(0)
    for side in (4, 5):
        for split, counts in (("train", (8, 8)), ("valid", (3, 3)), ("test", (3, 3))):
            for name, count in zip("ab", counts, strict=True):
                folder = tmp_path / f"{side}" / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{i}.png")
    return lambda side: f"imagefolder:{tmp_path / str(side)}"


@pytest.mark.parametrize("space", ["chain", "darts", "nasbench201"])
def test_a_last_batch_of_one_image_that_becomes_one_pixel_is_refused(images, tmp_path, space):
    settings = {"dataset": images(4), "space": space, "channels": 4, "candidates": ()}
    settings |= {"chain": {"depth": 4}, "darts": {"cells": 3}, "nasbench201": {"cells": 1}}[space]
    with pytest.raises(ValueError, match=REFUSED):
        make_trainer(tmp_path / "run", batch_size=5, **settings)
    make_trainer(tmp_path / "run", batch_size=4, **settings)


def test_what_can_train_on_one_image_does(images, tmp_path):
    for settings in ({"dataset": images(5), "depth": 4}, {"dataset": images(4), "depth": 2}):
        folder = tmp_path / f"depth {settings['depth']}"
        make_trainer(folder, batch_size=5, warmup_epochs=1, channels=4, **settings).run()


def test_a_retraining_is_refused_alike(images, tmp_path):
    config = RetrainConfig(epochs=1, dataset=images(4), batch_size=5, keep_validation=True)
    data = load_data(config, config.batch_size, 0, CPU)
    deep, shallow = (
        make_trainer(tmp_path / "run", dataset=images(4), batch_size=4, depth=depth)
        .state.network.derive([3] * depth)
        .spec
        for depth in (4, 2)
    )
    with pytest.raises(ValueError, match=REFUSED):
        TrainingState(config, deep, data, CPU)
    Retrainer(TrainingState(config, shallow, data, CPU)).run()
