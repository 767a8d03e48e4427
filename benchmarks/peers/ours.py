"""Our network with the weights and alpha of another implementation's, and our step of the same algorithm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asose_fast.config import SpaceConfig
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.ops import ArchWeights, arch_weights
from asose_fast.space.cells import CellNetwork, CellNetworkSpec
from asose_fast.training_config import OptimizerConfig
from benchmarks.peers import settings
from benchmarks.peers.peer import Algorithm, Peer, Size


class Ours:
    """The same step as `theirs` on our network, by one of our algorithms."""

    def __init__(self, theirs: Peer, size: Size, algorithm: Algorithm) -> None:
        space = SpaceConfig(space="darts", channels=size.channels, cells=size.cells)
        network = CellNetwork(CellNetworkSpec.supernet(space, 3, 10))
        load(theirs, network)
        self.network, self.algorithm = network.to(memory_format=torch.channels_last), algorithm
        self.x, self.y = theirs.x.contiguous(memory_format=torch.channels_last), theirs.y
        self.alpha = torch.cat([a.detach() for a in theirs.alpha]).requires_grad_()
        config = OptimizerConfig(learning_rate=settings.RATE, momentum=settings.MOMENTUM, weight_decay=settings.DECAY)
        self.weights = weight_optimizer(config, self.network)
        self.architecture = alpha_optimizer([self.alpha], settings.ALPHA_RATE)
        self.architecture.param_groups[0]["weight_decay"] = settings.ALPHA_DECAY

    def double(self) -> None:
        """Computes in float64 from now on."""
        self.network.double()
        self.x = self.x.double()
        self.alpha.data = self.alpha.data.double()

    def step(self) -> None:
        """An alpha step and a weight step."""
        alpha_step(self.network, self.architecture, self.x, self.y, self._draw())
        draw = self._draw()
        mixture = draw.weights.detach() if draw.path is None else None
        weight_step(self.network, self.weights, self.x, self.y, draw.path, mixture=mixture, clip=settings.CLIP)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient by alpha or, for sampled candidates, by the weights of those that ran."""
        draw = self._draw()
        loss = nn.functional.cross_entropy(self.network(self.x, draw.weights, draw.path, draw.kept), self.y)
        if draw.path is None:
            return loss.detach(), torch.autograd.grad(loss, self.alpha)[0]
        (gradient,) = torch.autograd.grad(loss, draw.weights)
        return loss.detach(), gradient.gather(1, torch.tensor(draw.path)[:, None])

    def _draw(self) -> Draw:
        if self.algorithm == "darts":
            return Draw(self.alpha.softmax(1), None)
        drawn = self._gdas() if self.algorithm == "gdas" else arch_weights(self.alpha, 1.0)
        path = drawn.index.tolist()
        return Draw(drawn.weights, path, [(i,) for i in path] if self.algorithm == "gdas" else None)

    def _gdas(self) -> ArchWeights:
        """A sample that takes the same random numbers as theirs: those of the normal cells, then of the others."""
        noise = torch.cat([-torch.empty_like(rows).exponential_().log() for rows in self.alpha.chunk(2)])
        return arch_weights(self.alpha, settings.GDAS_TEMPERATURE, noise=noise)


def load(theirs: Peer, ours: CellNetwork) -> None:
    """Copies every weight of theirs into ours. Raises ValueError where the networks differ."""
    network = theirs.network
    pairs = [(network.stem, ours.stem), (network.classifier, ours.head[-1])]
    for cell, mine in zip(network.cells, ours.cells, strict=True):
        pairs += [(cell.preprocess0, mine.before), (cell.preprocess1, mine.last)]
        for edge, op in zip(cell._ops, mine.ops, strict=True):
            pairs += zip(theirs.candidates(edge), op.ops.values(), strict=True)
    copied = 0
    with torch.no_grad():
        for source, target in pairs:
            for a, b in zip(source.parameters(), target.parameters(), strict=True):
                if a.shape != b.shape:
                    raise ValueError(f"{source} has a parameter of {tuple(a.shape)}, {target} one of {tuple(b.shape)}")
                b.copy_(a)
                copied += a.numel()
    if copied != sum(p.numel() for p in theirs.weights()) or copied != sum(p.numel() for p in ours.parameters()):
        raise ValueError("the networks do not have the same parameters")
