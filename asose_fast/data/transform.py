"""A transform makes a normalised batch of uint8 images, augmented or not. It takes the whole batch at once, on its
device."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from asose_fast.data.upload import upload


@dataclasses.dataclass(frozen=True)
class Transform:
    """The transform crops and mirrors at random, and normalises.

    Attributes:
        scale: float32 (C,) on the device of the images.
        shift: float32 (C,), likewise: x = pixel * scale + shift.
        pad: the crop moves the image by up to this many pixels; black moves in.
        mirror: whether half of the images are mirrored left to right.
    """

    scale: Tensor
    shift: Tensor
    pad: int
    mirror: bool

    @classmethod
    def normalising(
        cls, mean: tuple[float, ...], std: tuple[float, ...], pad: int, mirror: bool, device: torch.device
    ) -> Transform:
        """Returns the transform that brings pixels of this mean and standard deviation (of values 0 to 1) to 0 and
        1."""
        m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        return cls((1 / (255 * s)).float().to(device), (-m / s).float().to(device), pad, mirror)

    def __call__(self, pixels: Tensor, index: Tensor, moves: Tensor | None) -> Tensor:
        """Returns one batch.

        Args:
            pixels: uint8 (N, H, W, C), contiguous.
            index: int64 (B,), the images to take.
            moves: int64 (3, B) on the CPU, as `draw` gives them; None: no augmentation.

        Returns:
            float32 (B, C, H, W) in channels_last memory.
        """
        batch = pixels[index] if moves is None else _moved(pixels, index, upload(moves, pixels.device))
        return torch.addcmul(self.shift, batch.float(), self.scale).permute(0, 3, 1, 2)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draws the augmentation of a batch, int64 (3, B): rows down, columns right, whether mirrored."""
        down_right = torch.randint(-self.pad, self.pad + 1, (2, batch_size), generator=generator)
        mirrored = torch.randint(0, 2, (1, batch_size), generator=generator) * self.mirror
        return torch.cat((down_right, mirrored))


def _moved(pixels: Tensor, index: Tensor, moves: Tensor) -> Tensor:
    """Gathers every output pixel by its place in `pixels`. `moves` is that of `Transform.draw`."""
    _, height, width, channels = pixels.shape
    down, right, mirrored = moves[:, :, None]
    columns = torch.arange(width, device=pixels.device)
    columns = columns + mirrored * (width - 1 - 2 * columns) + right
    rows = torch.arange(height, device=pixels.device) + down
    places = (index[:, None] * height + rows.clamp(0, height - 1)) * width
    places = places[:, :, None] + columns.clamp(0, width - 1)[:, None, :]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    batch = pixels.view(-1, channels).index_select(0, places.view(-1)).view(*places.shape, channels)
    moved: Tensor = batch * inside[..., None]
    return moved
