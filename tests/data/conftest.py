from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteClasses = Callable[..., Path]


@pytest.fixture
def write_classes(tmp_path: Path) -> WriteClasses:
    """Writes `counts[name]` random PNG images for every class `name` below tmp_path / `under`; returns tmp_path."""

    def write(counts: dict[str, int], under: str = "", size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
        rng = np.random.default_rng(len(under))
        for name, count in counts.items():
            folder = tmp_path / under / name
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{number:03}.png")
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded images are kept in a folder of the test's own, which is returned and not there yet."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "asose_fast"
