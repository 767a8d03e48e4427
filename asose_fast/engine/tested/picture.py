"""A picture is a small copy of an image, as a data URI: text that a page shows without loading anything."""

from __future__ import annotations

import base64
import io
import re

from PIL import Image
from torch import Tensor

SMALL, SIDE = 32, 96
"""Images up to the first side, in pixels, are kept as they are, and larger ones are reduced to the second at most."""
MOST = 60_000
"""No picture has so many characters."""
_URI = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


def picture(pixels: Tensor) -> str:
    """Returns the data URI of an image, uint8 (H, W, C): a PNG where it is small, else a JPEG."""
    array = pixels.numpy()
    image, file = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array), io.BytesIO()
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    image.thumbnail((SIDE, SIDE))
    image.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def is_picture(text: object) -> bool:
    """Says whether this is a data URI as `picture` writes them, and nothing that a page would have to load or run."""
    return isinstance(text, str) and len(text) < MOST and _URI.fullmatch(text) is not None
