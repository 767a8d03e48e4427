"""A search for several labels an image: which digits are among the two of it?"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import asose_fast
from asose_fast import MixedOp

CHANNELS = 16


def choice() -> MixedOp:
    """Square and oblong kernels, or none."""
    kernels = {"3x3": (3, 3), "5x5": (5, 5), "3x5": (3, 5)}
    convolutions = {
        name: nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=(kernel[0] // 2, kernel[1] // 2)),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
        )
        for name, kernel in kernels.items()
    }
    return MixedOp({**convolutions, "skip": nn.Identity()})


def make() -> nn.Sequential:
    """A network from (N, 1, 8, 16) to a score for each digit (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        choice(),
        nn.MaxPool2d(2),
        choice(),
        nn.AdaptiveMaxPool2d((2, 2)),
        nn.Flatten(),
        nn.Linear(4 * CHANNELS, 10),
    )


def data(size: int = 32) -> list[list[tuple[Tensor, Tensor]]]:
    """Batches to train on, to choose by and to test with. Two digits stand side by side, and no part has those of
    another. A target is a row of ten, with 1 for each digit that is there."""
    digits, seeded = load_digits(), torch.Generator().manual_seed(0)
    images, classes = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    loaders = []
    for part in torch.randperm(len(images), generator=seeded).split([1000, 400, 397]):
        pairs = part[torch.randint(len(part), (2 * len(part), 2), generator=seeded)]
        x = torch.cat([images[pairs[:, 0]], images[pairs[:, 1]]], 2)[:, None]
        y = torch.zeros(len(pairs), 10).scatter_(1, classes[pairs], 1.0)
        loaders.append(list(zip(x.split(size), y.split(size), strict=True)))
    return loaders


def exact(scores: Tensor, y: Tensor) -> Tensor:
    """The share of images of which all ten answers are right."""
    return ((scores > 0) == y.bool()).all(1).float().mean()


def main(epochs: int = 12) -> asose_fast.SearchResult:
    """Searches by the binary cross-entropy of every label."""
    torch.manual_seed(0)
    config = asose_fast.Config(epochs=epochs, learning_rate=0.1)
    loss = nn.functional.binary_cross_entropy_with_logits
    result = asose_fast.search(make(), data(), config, loss=loss, metric=exact)
    print(result.genotype)
    print(f"all labels right: {result.test_score:.1%}")
    return result


if __name__ == "__main__":
    main()
