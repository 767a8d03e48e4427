"""A search with Hugging Face Accelerate: the network, its optimizer and the loaders are prepared as always."""

import accelerate
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import asose_fast
from asose_fast import MixedOp


def loader(count: int) -> DataLoader:
    """Which quadrant a point is in, with the sum of its coordinates as a distraction."""
    x = torch.randn(count, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return DataLoader(TensorDataset(torch.cat([x, x.sum(1, keepdim=True)], 1), y), batch_size=64, shuffle=True)


def main(epochs: int = 15) -> float:
    """Searches; returns the derived network's accuracy on new points."""
    accelerate.utils.set_seed(0)
    mixed = [MixedOp({"gelu": nn.GELU(), "sigmoid": nn.Sigmoid(), "skip": nn.Identity()}) for _ in range(2)]
    network = nn.Sequential(nn.Linear(3, 24), mixed[0], nn.Linear(24, 24), mixed[1], nn.Linear(24, 2))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)

    accelerator = accelerate.Accelerator()
    train, valid = loader(1024), loader(1024)
    network, optimizer, train, valid = accelerator.prepare(network, optimizer, train, valid)
    searcher = asose_fast.Searcher(accelerator.unwrap_model(network), alpha_steps=epochs * len(train))

    for epoch in range(epochs):
        for (x, y), (x_valid, y_valid) in zip(train, valid, strict=True):
            searcher.sample(uniform=epoch < 2)
            accelerator.backward(cross_entropy(network(x), y))
            optimizer.step()
            optimizer.zero_grad()
            if epoch >= 2:
                searcher.alpha_step(
                    lambda x=x_valid, y=y_valid: cross_entropy(network(x), y), backward=accelerator.backward
                )

    derived = searcher.derive()
    x, y = next(iter(accelerator.prepare(loader(1024))))
    found = float((derived(x).argmax(1) == y).float().mean())
    accelerator.print(searcher.genotype, f"accuracy {found:.1%}")
    return found


if __name__ == "__main__":
    main()
