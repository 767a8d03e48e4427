"""Data folders: odd images, names, permissions, truncated files, links."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from asose_fast.data import DataConfig, DataError, load_data
from tests.campaigns.fuzz.loaders import mutated
from tests.campaigns.fuzz.target import Target, refused

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
FORMATS = ("png", "jpg", "bmp", "tif", "webp", "ppm")


@functools.cache
def image(mode: str, kind: str, width: int, height: int) -> bytes:
    """An encoded image; an RGB one where the format does not have the mode."""
    pixels = np.random.default_rng(width * 31 + height).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels)
    encoder = {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind)
    for candidate in (mode, "RGB"):
        buffer = io.BytesIO()
        with contextlib.suppress(OSError, ValueError, KeyError):
            converted = (
                picture.convert("L").convert("I").convert("I;16") if candidate == "I;16" else picture.convert(candidate)
            )
            converted.save(buffer, encoder)
            return buffer.getvalue()
    raise AssertionError(f"no {kind} for {mode}")


def bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    content = bytearray(image("L", "png", 8, 8))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(content)


@st.composite
def contents(draw: Callable[[Any], Any]) -> bytes:
    """Of a file: mostly an image."""
    kind, mode = draw(st.sampled_from(FORMATS)), draw(st.sampled_from(MODES))
    size = draw(st.sampled_from(((8, 8), (8, 8), (8, 8), (1, 1), (9, 7), (64, 2))))
    good = image(mode, kind, *size)
    return draw(st.one_of(st.just(good), st.just(good), mutated(good), st.sampled_from((b"", b"GIF89a", bomb()))))


NAMES = st.one_of(
    st.sampled_from(("a", "b", "c")),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
).filter(lambda name: name not in (".", ".."))
ENTRIES = st.sampled_from(("image",) * 12 + ("folder", "fifo", "dangling", "loop", "parent", "unreadable", "other"))


@st.composite
def folders(draw: Callable[[Any], Any]) -> tuple[int | None, list[tuple[str, str, str, bytes]]]:
    """An image size and (class folder, name, kind, content) of every entry."""
    classes = draw(st.lists(NAMES, min_size=draw(st.sampled_from((0, 2, 2, 2))), max_size=3, unique=True))
    parts = draw(st.sampled_from(([""], [""], ["train/", "test/"], ["train/"])))
    same = draw(st.integers(0, 2)) and image("L", "png", 8, 8)
    entries = []
    for part in parts:
        for folder in classes:
            for number in range(draw(st.sampled_from((0, 1, 4, 5, 6)))):
                kind = "image" if same and draw(st.integers(0, 15)) else draw(ENTRIES)
                name = f"{number}.{draw(st.sampled_from(FORMATS))}" if draw(st.booleans()) else f"{draw(NAMES)}.png"
                entries.append((part + folder, name, kind, same or draw(contents())))
    return draw(st.sampled_from((None, 8, 1))), entries


def build(root: Path, entries: list[tuple[str, str, str, bytes]]) -> None:
    """Makes the folder; what the file system refuses is left out."""
    for folder, name, kind, content in entries:
        with contextlib.suppress(OSError):
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = root / folder / name
            if path.exists():
                continue  # writing to a pipe would wait
            if kind in ("image", "unreadable", "other"):
                path.write_bytes(content)
                path.chmod(0 if kind == "unreadable" else 0o644)
            elif kind == "folder":
                path.mkdir()
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                path.symlink_to({"dangling": root / "nowhere", "loop": path, "parent": root}[kind])


def load_folder(plan: tuple[int | None, list[tuple[str, str, str, bytes]]]) -> bool:
    """`load_data` of the folder, in memory or decoded as needed."""
    size, entries = plan
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as kept:
        root = Path(temporary)
        build(root, entries)

        def load() -> None:
            for limit, cache in ((4.0, None), (0.0, None), (0.0, kept)):
                config = DataConfig(
                    dataset=f"imagefolder:{root}",
                    image_size=size,
                    valid_fraction=0.5,
                    memory_limit_gb=limit,
                    cache_root=cache,
                )
                data = load_data(config, 1, 0, torch.device("cpu"))
                for split in (data.train, data.valid, data.test):
                    for x, _ in split.batches(0):
                        assert x.isfinite().all()

        return not refused(load, DataError)


def targets() -> list[Target]:
    """All of them."""
    return [Target("data folder", folders(), load_folder)]
