"""A search for a segmentation: which pixels are of a disc, which of a square, and which of neither?"""

import torch
from torch import Tensor, nn

import asose_fast
from asose_fast import MixedOp

SIDE, CHANNELS, CLASSES = 16, 8, 3


def convolution(kernel: int, dilation: int = 1) -> nn.Sequential:
    """Of (N, C, H, W), which it keeps."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=padding, dilation=dilation),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
    )


def choice() -> MixedOp:
    """Detail, context, or neither."""
    return MixedOp({"detail": convolution(3), "context": convolution(3, dilation=2), "skip": nn.Identity()})


class Model(nn.Module):
    """(N, 1, H, W) images to scores of every pixel (N, classes, H, W): down to half the side, and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU())
        self.down, self.across, self.up = choice(), choice(), choice()
        self.head = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        coarse = self.across(nn.functional.max_pool2d(x, 2))
        x = x + nn.functional.interpolate(coarse, scale_factor=2)
        y: Tensor = self.head(self.up(x))
        return y


def batches(count: int, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Noisy images of one disc and one square each, and the class of every pixel."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    made = []
    for _ in range(count):
        centres = torch.randint(3, SIDE - 3, (4, size, 1, 1))
        disc = (row - centres[0]) ** 2 + (column - centres[1]) ** 2 <= 9
        square = ((row - centres[2]).abs() <= 2) & ((column - centres[3]).abs() <= 2)
        y = torch.where(square, 2, disc.long())
        made.append(((y > 0)[:, None] + 0.4 * torch.randn(size, 1, SIDE, SIDE), y))
    return made


def overlap(scores: Tensor, y: Tensor) -> Tensor:
    """The mean over the classes of intersection over union."""
    found, classes = scores.argmax(1), range(CLASSES)
    shares = [((found == c) & (y == c)).sum() / ((found == c) | (y == c)).sum().clamp(min=1) for c in classes]
    return torch.stack(shares).mean()


def main(epochs: int = 16) -> asose_fast.SearchResult:
    """Searches by the cross-entropy of pixels, and measures how well areas overlap."""
    torch.manual_seed(0)
    config = asose_fast.Config(epochs=epochs, learning_rate=0.05)
    result = asose_fast.search(Model(), (batches(24), batches(12), batches(12)), config, metric=overlap)
    print(result.genotype)
    print(f"intersection over union {result.test_score:.1%}")
    return result


if __name__ == "__main__":
    main()
