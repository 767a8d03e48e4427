"""A search with Lightning: alpha takes its steps on validation batches within training_step."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import asose_fast
from asose_fast import MixedOp
from asose_fast.data.torchvision_compat import import_torchvision

import_torchvision()  # Lightning does too, which fails where torchvision was built for another torch
import lightning  # noqa: E402


class Search(lightning.LightningModule):
    """Every batch is a pair of a training and a validation batch."""

    def __init__(self, alpha_steps: int, warmup: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.warmup = warmup
        mixed = [MixedOp({"relu": nn.ReLU(), "square": Square(), "skip": nn.Identity()}) for _ in range(2)]
        self.network = nn.Sequential(nn.Linear(2, 16), mixed[0], nn.Linear(16, 16), mixed[1], nn.Linear(16, 2))
        self.alpha_steps = alpha_steps

    def on_fit_start(self) -> None:
        """The network is on its device now."""
        self.searcher = asose_fast.Searcher(self.network, alpha_steps=self.alpha_steps)

    def training_step(self, batch: dict[str, list[Tensor]], _: int) -> None:
        """A step of the weights on the path that was sampled, and one of alpha."""
        (x, y), (x_valid, y_valid) = batch["train"], batch["valid"]
        optimizer = self.optimizers()
        self.searcher.sample(uniform=self.current_epoch < self.warmup)
        self.manual_backward(cross_entropy(self.network(x), y))
        optimizer.step()
        optimizer.zero_grad()
        if self.current_epoch >= self.warmup:
            self.searcher.alpha_step(lambda: cross_entropy(self.network(x_valid), y_valid), self.manual_backward)

    def on_validation_start(self) -> None:
        """What is validated is what would be derived."""
        if hasattr(self, "searcher"):
            self.searcher.best()

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Accuracy."""
        x, y = batch
        self.log("accuracy", (self.network(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Of the weights."""
        return torch.optim.Adam(self.network.parameters(), 1e-2)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """The searcher's state goes with the weights."""
        checkpoint["searcher"] = self.searcher.state_dict()


class Square(nn.Module):
    """x^2."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def loader(count: int) -> DataLoader:
    """Points inside and outside of a circle."""
    x = torch.randn(count, 2)
    return DataLoader(TensorDataset(x, (x.norm(dim=1) > 1.2).long()), batch_size=64, shuffle=True)


def main(epochs: int = 12) -> float:
    """Searches; returns the derived network's accuracy on new points."""
    lightning.seed_everything(0, verbose=False)
    train, valid = loader(1024), loader(1024)
    module = Search(alpha_steps=epochs * len(train))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, lightning.pytorch.utilities.CombinedLoader({"train": train, "valid": valid}), valid)
    network = module.searcher.derive()
    x, y = next(iter(loader(1024)))
    found = float((network(x.to(module.device)).argmax(1).cpu() == y).float().mean())
    print(module.searcher.genotype, f"accuracy {found:.1%}")
    return found


if __name__ == "__main__":
    main()
