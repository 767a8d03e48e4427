"""A search in a network of your own, on data of your own: handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import asose_fast
from asose_fast import MixedOp


def choice(channels: int) -> MixedOp:
    """Any modules, under any names."""
    return MixedOp(
        {
            "conv3": nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()),
            "conv5": nn.Sequential(nn.Conv2d(channels, channels, 5, padding=2), nn.BatchNorm2d(channels), nn.ReLU()),
            "pool": nn.MaxPool2d(3, stride=1, padding=1),
            "skip": nn.Identity(),
        }
    )


def main(epochs: int = 24) -> asose_fast.SearchResult:
    """Searches, and says what was found."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    seeded = torch.Generator().manual_seed(0)  # a search that goes on must find the same split
    parts = random_split(TensorDataset(images, torch.tensor(digits.target)), [0.5, 0.25, 0.25], seeded)
    train, valid, test = (DataLoader(part, batch_size=64, shuffle=True) for part in parts)

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), choice(16), choice(16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )
    result = asose_fast.search(model, (train, valid, test), asose_fast.Config(epochs=epochs))
    print(result.genotype)  # {'1': 'conv5', '2': 'conv3'}, say
    print(f"test accuracy {result.test_score:.1%} of\n{result.network}")
    return result


if __name__ == "__main__":
    main()
