"""A pretrained network for new classes, and cheaper: what it learned of the digits 0 to 4 serves for 5 to 9."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import asose_fast
from asose_fast import Config, PhaseSpec

SHAPE = (1, 1, 8, 8)
Batches = DataLoader[tuple[Tensor, ...]]


def convolution(channels: int, out: int) -> list[nn.Module]:
    """A convolution with its norm."""
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


def pretrained(epochs: int) -> nn.Sequential:
    """In the place of a model from elsewhere: `torchvision.models.resnet18(weights="DEFAULT")`, say."""
    model = nn.Sequential(
        *convolution(1, 16), *convolution(16, 16), nn.MaxPool2d(2), *convolution(16, 32), *convolution(32, 32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(epochs):
        for x, y in data(range(5), [600, 0, 0])[0]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def data(classes: range, sizes: list[int]) -> list[Batches]:
    """Noisy digits of some classes to train on, to choose by, and, as many as are left, to test with."""
    digits, seeded = load_digits(), torch.Generator().manual_seed(0)
    images, targets = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(digits.target)
    images += 0.5 * torch.randn(images.shape, generator=seeded)
    of_classes = torch.isin(targets, torch.tensor(classes)).nonzero()[:, 0]
    order = of_classes[torch.randperm(len(of_classes), generator=seeded)]
    parts = order.split([*sizes[:2], len(order) - sum(sizes[:2])])
    sets = [TensorDataset(images[part], targets[part] - classes[0]) for part in parts]
    return [DataLoader(part, batch_size=20, shuffle=bool(len(part))) for part in sets]


def main(epochs: int = 20) -> dict[str, float]:
    """Searches within 60 % of the FLOPs, from the pretrained weights and from fresh ones; returns both accuracies."""
    torch.manual_seed(0)
    model, loaders, scores = pretrained(max(1, epochs // 4)), data(range(5, 10), [100, 100]), {}
    warmup = PhaseSpec("warmup", epochs // 5, updates="weights", architecture="uniform")
    search = PhaseSpec("search", epochs // 2, boost=True, noise=True)
    tune = PhaseSpec("tune", epochs - epochs // 5 - epochs // 2, updates="weights", architecture="derived")
    for name in ("pretrained", "from scratch"):
        if name == "from scratch":
            for module in model.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        model[-1] = nn.Linear(32, 5)  # a head for the new classes
        original = asose_fast.wrappable(model, SHAPE)
        config = Config(derive_max_flops=int(0.6 * original.flops), learning_rate=0.02, device="cpu")
        space = asose_fast.wrap(model, SHAPE)
        found = asose_fast.search(space, loaders, config, phases=[warmup, search, tune], observers=())
        share = asose_fast.wrappable(found.network, SHAPE).flops / original.flops
        scores[name] = float(found.test_score or 0)
        print(f"{name}: accuracy {scores[name]:.1%} with {share:.0%} of the FLOPs, {found.genotype}")
    return scores


if __name__ == "__main__":
    main()
