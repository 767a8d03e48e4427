"""A search for a regression: how far diabetes has come after a year, from ten measurements of a patient."""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import asose_fast
from asose_fast import MixedOp

WIDTH = 16


def hidden(activation: nn.Module) -> nn.Sequential:
    """A layer of a perceptron."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), activation)


class Model(nn.Module):
    """(N, 10) measurements to (N,) progressions. Each layer is added to what came before, or left out."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(10, WIDTH)
        self.layers = nn.ModuleList(
            MixedOp({"relu": hidden(nn.ReLU()), "tanh": hidden(nn.Tanh()), "skip": nn.Identity()})
            for _ in range(layers)
        )
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        y: Tensor = self.head(x)[:, 0]
        return y


def data() -> list[DataLoader[tuple[Tensor, ...]]]:
    """Patients to train on, to choose by and to test with, the same in every run; both sides are standardised."""
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True, scaled=False))
    x, y = ((part - part.mean(0)) / part.std(0) for part in (x, y))
    parts = random_split(TensorDataset(x, y), [0.5, 0.25, 0.25], torch.Generator().manual_seed(0))
    return [DataLoader(part, batch_size=20, shuffle=True) for part in parts]


def main(epochs: int = 40) -> asose_fast.SearchResult:
    """Searches by the squared error, of which 1 is that of who always says the mean."""
    torch.manual_seed(0)
    config = asose_fast.Config(epochs=epochs, learning_rate=0.01)
    result = asose_fast.search(Model(), data(), config, loss=F.mse_loss)
    print(result.genotype)
    print(f"mean squared error {-(result.test_score or 0):.3f}")  # a loss counts as a score with its sign changed
    return result


if __name__ == "__main__":
    main()
