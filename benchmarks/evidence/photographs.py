"""A folder of photographs of mixed sizes, made of small images: `python -m benchmarks.evidence.photographs FROM TO`

A photograph has an image of CIFAR-10 in its middle, enlarged to between 150 and 600 pixels a side, or to `--sides`. Its
border is the mirrored image, as wide or as high as one of the aspect ratios 1, 4:3, 3:4, 3:2 and 16:9 takes. `TO` has
the splits and classes of `FROM`, with `--images` of every class and split, and is the same for the same arguments.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = (150, 600)
"""Of the square in the middle, in pixels, at least and at most."""
ASPECTS = (1, 4 / 3, 3 / 4, 3 / 2, 16 / 9)
QUALITY = 88


def photograph(image: Image.Image, side: int, aspect: float) -> Image.Image:
    """Enlarges an image to a square of `side` pixels, whose mirrored border makes it `aspect` times as wide as high."""
    square = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    more = [max(0, round(side * times) - side) for times in (1 / aspect, aspect)]
    borders = [(pixels // 2, pixels - pixels // 2) for pixels in more]
    return Image.fromarray(np.pad(square, [*borders, (0, 0)], mode="symmetric"))


def make(source: Path, target: Path, images: int, sides: tuple[int, int] = SIDES) -> None:
    """Writes train/ and test/ with `images` of every class, whose middles have `sides` pixels at least and at most."""
    draws = random.Random(0)
    classes = sorted(folder.name for folder in (source / "train").iterdir())
    for split in ("train", "test"):
        for name in classes:
            files = sorted((source / split / name).iterdir())
            draws.shuffle(files)
            (target / split / name).mkdir(parents=True, exist_ok=True)
            for i, file in enumerate(files[:images]):
                side, aspect = draws.randint(*sides), draws.choice(ASPECTS)
                with Image.open(file) as image:
                    photograph(image, side, aspect).save(target / split / name / f"{i:04}.jpg", quality=QUALITY)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.photographs", description=__doc__)
    parser.add_argument("source", type=Path, metavar="FROM", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("target", type=Path, metavar="TO", help="folder to write")
    parser.add_argument("--images", type=int, default=100, help="of every class and split")
    parser.add_argument("--sides", type=int, nargs=2, default=SIDES, metavar="N", help="of the middles, in pixels")
    options = parser.parse_args()
    make(options.source, options.target, options.images, tuple(options.sides))


if __name__ == "__main__":
    main()
