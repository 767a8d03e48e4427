from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.evidence.photographs import make, photograph


def test_a_photograph_has_its_aspect_and_the_image_in_its_middle():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    square = np.asarray(image.resize((30, 30), Image.Resampling.BICUBIC))
    wide = np.asarray(photograph(image, 30, 4 / 3))
    assert wide.shape == (30, 40, 3)
    assert (wide[:, 5:35] == square).all()
    assert (wide[:, :5] == square[:, 4::-1]).all()
    assert photograph(image, 30, 3 / 4).size == (30, 40)


def test_a_folder_is_the_same_each_time(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "from" / split / "cat").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "from" / split / "cat" / f"{i}.png")
    for name in ("first", "second"):
        make(tmp_path / "from", tmp_path / name, images=2)
    first, second = (sorted((tmp_path / name).rglob("*.jpg")) for name in ("first", "second"))
    assert len(first) == 4
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
