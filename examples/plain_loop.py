"""A search in a training loop of your own: the Searcher chooses what runs and trains alpha, the loop does the rest."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import asose_fast
from asose_fast import MixedOp


class Wave(nn.Module):
    """sin(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def make_network(width: int = 32) -> nn.Module:
    """A regression whose activations are searched."""
    layers: list[nn.Module] = [nn.Linear(1, width)]
    for _ in range(2):
        layers += [MixedOp({"wave": Wave(), "tanh": nn.Tanh(), "skip": nn.Identity()}), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def batch() -> tuple[Tensor, Tensor]:
    """x, and what is to be learned of it."""
    x = 6 * torch.rand(64, 1) - 3
    return x, (3 * x).sin()


def main(steps: int = 1500) -> float:
    """Searches and trains on; returns the mean squared error of what was derived."""
    torch.manual_seed(0)
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    searcher = asose_fast.Searcher(network, alpha_steps=steps // 4)

    for step in range(steps):
        x, y = batch()
        searcher.sample(uniform=step < steps // 5)  # at first all candidates alike
        mse_loss(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= steps // 5 and step % 4 == 0:
            x, y = batch()  # of the validation data, where data are few
            searcher.alpha_step(lambda x=x, y=y: mse_loss(network(x), y))  # type: ignore[misc]

    print(searcher.genotype)
    network = searcher.derive()  # its parameters are those that the optimizer has
    for _ in range(steps // 5):
        x, y = batch()
        mse_loss(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    x, y = batch()
    error = float(mse_loss(network(x), y).detach())
    print(f"mean squared error {error:.4f}")
    return error


if __name__ == "__main__":
    main()
