"""A network with half the FLOPs of one that you have trained: a residual network on noisy digits."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import asose_fast
from asose_fast import Config, PhaseSpec

SHAPE = (1, 1, 8, 8)


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.downsample = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return torch.relu(y + self.downsample(x))


def data() -> list[DataLoader[tuple[Tensor, ...]]]:
    """500 digits to train on, 300 to choose by, the other 997 to test with, all with the same noise in every run."""
    digits, generator = load_digits(), torch.Generator().manual_seed(0)
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images += 0.9 * torch.randn(images.shape, generator=generator)
    order = torch.randperm(len(images), generator=generator)
    parts = order.split([500, 300, 997])
    targets = torch.tensor(digits.target)
    return [DataLoader(TensorDataset(images[part], targets[part]), batch_size=25, shuffle=True) for part in parts]


def train(model: nn.Module, batches: DataLoader[tuple[Tensor, ...]], epochs: int) -> None:
    """SGD with a cosine."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader[tuple[Tensor, ...]]) -> float:
    """The share of right predictions."""
    model.eval()
    right = [(model(x).argmax(1) == y).float() for x, y in batches]
    return float(torch.cat(right).mean())


def main(epochs: int = 15, seed: int = 0) -> dict[str, float]:
    """Trains, searches, and says how right the networks are on test images. Both halves take as many epochs."""
    torch.manual_seed(seed)
    loaders = data()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Block(16, 16), Block(16, 32, 2), Block(32, 32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    train(model, loaders[0], epochs)
    original = asose_fast.wrappable(model, SHAPE)
    print(original)

    config = Config(derive_max_flops=original.flops // 2, seed=seed, device="cpu")
    share = max(1, epochs // 5)
    warmup = PhaseSpec("warmup", share, updates="weights", architecture="uniform")
    search = PhaseSpec("search", 3 * share, boost=True, noise=True)
    schedules = {
        "searched": [warmup, search, PhaseSpec("optimize", share, updates="weights", architecture="derived")],
        "not searched": [PhaseSpec("optimize", 5 * share, updates="weights", architecture="derived")],
    }
    scores = {"original": accuracy(model, loaders[2])}
    for name, phases in schedules.items():
        space = asose_fast.wrap(model, SHAPE)
        found = asose_fast.search(space, loaders, config, phases=phases, observers=())
        flops = asose_fast.wrappable(found.network, SHAPE).flops / original.flops
        scores[name] = float(found.test_score or 0)
        print(f"{name}: {flops:.0%} of the FLOPs, {found.genotype}")
    print(", ".join(f"{name} {score:.1%}" for name, score in scores.items()))
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="Of weights, batches and search.")
    main(seed=parser.parse_args().seed)
