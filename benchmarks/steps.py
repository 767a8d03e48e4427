"""The steps of a search, ours and the baselines': the same weights, the same images and the same draws for all."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast.config import CANDIDATES, CELL_CANDIDATES, RunConfig, SpaceConfig
from asose_fast.data.upload import upload
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.processes import ALONE
from asose_fast.engine.step.graphs import GraphedSteps
from asose_fast.engine.step.optimizers import alpha_optimizer, on_device, weight_optimizer
from asose_fast.engine.step.precision import Precision
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.ops import ArchWeights, arch_weights
from asose_fast.presets import IMAGES
from asose_fast.space import Network, NetworkSpec
from asose_fast.space.replay import RARE
from asose_fast.training_config import OptimizerConfig
from benchmarks.baselines import Autocast, EagerMixture

DARTS = CELL_CANDIDATES["darts"]
"""The candidates of DARTS (Liu et al., ICLR 2019)."""
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
CLIP = 5.0
MOST_COMPILED = 1 << 12
_ISOLATED = {k: True for k in inspect.signature(torch.compile).parameters if k == "isolate_recompiles"}
"""Where torch has it: its newer releases do."""


class Steps:
    """The steps of a search on one batch, through `model`, which computes with the parameters of `network`.

    All learning rates are 0, unless `rate` is given, so that a step leaves everything as it was, and alpha is 0, so
    that paths are uniformly random. Variants that are called equally often therefore compute the same, whatever their
    rounding.
    """

    def __init__(
        self,
        network: Network,
        x: Tensor,
        y: Tensor,
        model: nn.Module | None = None,
        *,
        skipping: bool = True,
        precision: Precision = "fp32",
        graphs: bool = False,
        rate: float = 0.0,
    ) -> None:
        """`skipping`: a weight step runs the sampled candidates alone, an alpha step takes only the gradients that it
        uses; otherwise every step computes every candidate and every gradient. `graphs`: CUDA graphs where they can be
        had. `precision` and `graphs` are for the network itself and `skipping`."""
        self.network, self.x, self.y, self.skipping = network, x, y, skipping
        self.model = network if model is None else model
        blocks = network.evolvable_blocks()
        self.logits = torch.zeros(len(blocks), len(blocks[0].spec.candidates), device=x.device, requires_grad=True)
        self.generator = torch.Generator().manual_seed(0)
        self.parameters = list(network.parameters())
        self.weight_optimizer = weight_optimizer(OptimizerConfig(learning_rate=rate), network)
        self.alpha_optimizer = alpha_optimizer([self.logits], rate)
        if x.is_cuda:
            on_device(self.weight_optimizer)
        self.precision = precision
        self.graphs = GraphedSteps(RunConfig(batch_size=len(x), graphs="auto"), x.device, ALONE) if graphs else None
        if self.graphs is not None:
            self.graphs.begin(network, "search")

    def weight(self, sampled: ArchWeights | None = None) -> Tensor:
        """One weight step on a sampled path; the loss."""
        sampled = sampled or self._draw()
        if self.skipping:
            return self._weight_step(sampled.index.tolist(), None)
        return self._whole(sampled, self.weight_optimizer)

    def alpha(self, sampled: ArchWeights | None = None) -> Tensor:
        """One alpha step through hard samples; the loss."""
        sampled = sampled or self._draw()
        if self.skipping:
            step = alpha_step if self.graphs is None else self.graphs.alpha_step
            draw = Draw(sampled.weights, sampled.index.tolist())
            return step(self.model, self.alpha_optimizer, self.x, self.y, draw, precision=self.precision).loss
        return self._whole(sampled, self.alpha_optimizer)

    def soft(self) -> Tensor:
        """One weight step of the soft mixture, with the gradient of alpha; the loss."""
        return self._whole(self._draw(hard=False), self.weight_optimizer)

    def mixture(self) -> Tensor:
        """One weight step of the soft mixture, as a search with the estimator `soft` takes it; the loss."""
        return self._weight_step(None, self._draw(hard=False).weights.detach())

    def derived(self) -> Tensor:
        """One step of a derived network, whose blocks have one candidate each; the loss."""
        return self._weight_step(None, None)

    def _weight_step(self, path: list[int] | None, mixture: Tensor | None) -> Tensor:
        step = weight_step if self.graphs is None else self.graphs.weight_step
        options = {"mixture": mixture, "clip": CLIP, "precision": self.precision}
        return step(self.model, self.weight_optimizer, self.x, self.y, path, **options).loss

    def cadence(self) -> None:
        """4 weight steps and 1 alpha step."""
        for _ in range(4):
            self.weight()
        self.alpha()

    def forward(self) -> Tensor:
        """The loss of the soft mixture, with its graph."""
        return self._loss(self._draw(hard=False))

    def zero_grad(self) -> None:
        """Frees all gradients."""
        self.weight_optimizer.zero_grad()
        self.alpha_optimizer.zero_grad()

    def results(self, kind: str) -> dict[str, Tensor]:
        """The loss of a step and the gradients that it uses; a candidate that did not run has gradient 0."""
        self.zero_grad()
        found = {"loss": getattr(self, kind)()}
        if kind in ("weight", "soft", "derived"):
            nn.utils.clip_grad_norm_(self.parameters, CLIP)  # where the step has not written them
            found["weights"] = torch.cat([_grad(p).flatten() for p in self.parameters])
        if kind in ("alpha", "soft"):
            found["alpha"] = _grad(self.logits)
        return found

    def _draw(self, hard: bool = True) -> ArchWeights:
        noise = -torch.empty(self.logits.shape).exponential_(generator=self.generator).log()
        return arch_weights(self.logits, 1.0, hard=hard, noise=upload(noise, self.x.device))

    def _loss(self, sampled: ArchWeights) -> Tensor:
        return F.cross_entropy(self.model(self.x, sampled.weights), self.y)

    def _whole(self, sampled: ArchWeights, optimizer: torch.optim.Optimizer) -> Tensor:
        self.zero_grad()
        loss = self._loss(sampled)
        loss.backward()
        if optimizer is self.weight_optimizer:
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
        optimizer.step()
        return loss.detach()


def _grad(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def make(
    batch: int, channels: int = 16, candidates: Sequence[str] = CANDIDATES, device: torch.device | str = "cpu"
) -> tuple[Network, Tensor, Tensor]:
    """A supernet of six layers, and images and classes for it."""
    torch.manual_seed(0)
    network = Network(NetworkSpec.chain(SpaceConfig(channels=channels, candidates=tuple(candidates)), 3, 10))
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    return network.to(device), x.to(device), y.to(device)


def make_default(batch: int, side: int) -> tuple[Network, Tensor, Tensor]:
    """The supernet that `asose-fast train` begins with on images of this side, and images and classes for it."""
    torch.manual_seed(0)
    config = SpaceConfig(**{name: IMAGES[name] for name in ("space", "channels", "depth")})
    network = Network(NetworkSpec.stages(config, 3, 10, side))
    return network, torch.randn(batch, 3, side, side), torch.randint(0, 10, (batch,))


def ours(
    network: Network, x: Tensor, y: Tensor, fused: bool | str = "auto", memory: str = "save", **options: Any
) -> Steps:
    """Steps of a copy of the network as it is, with the plan of its mixed operations chosen."""
    network, x = in_layout("nhwc", network, x)
    for block in network.evolvable_blocks():
        block.mixed.fused, block.mixed.memory = fused, memory
    return Steps(network, x, y, **options)


def eager(
    layout: str, network: Network, x: Tensor, y: Tensor, *, skipping: bool = False, autocast: bool = False
) -> Steps:
    """Steps of a copy of the network in plain PyTorch, its convolutions in bfloat16 with `autocast`."""
    network, x = in_layout(layout, network, x)
    mixture = EagerMixture(network)
    return Steps(network, x, y, Autocast(mixture) if autocast else mixture, skipping=skipping)


def compiled(
    network: Network,
    x: Tensor,
    y: Tensor,
    *,
    whole: bool = False,
    skipping: bool = False,
    autocast: bool = False,
    **options: Any,
) -> Steps:
    """Steps of a copy of the network, its candidates compiled one by one, or the `whole` of it at once.

    Its convolutions are in bfloat16 with `autocast`.
    """
    network, x = in_layout("nhwc", network, x)
    mixture = EagerMixture(network)
    model = Autocast(mixture) if autocast else mixture
    steps = Steps(network, x, y, model, skipping=skipping)
    if whole:
        steps.model = compile_one(model, **options)
    else:
        for block in network.evolvable_blocks():
            block.mixed.ops = nn.ModuleDict({name: compile_one(op, **options) for name, op in block.mixed.ops.items()})
    return steps


def compile_one(module: nn.Module, **options: Any) -> nn.Module:
    """torch.compile for one module and its shapes alone. By default it counts all modules of a class as one, and runs
    the candidates after the first few, or after an `nn.Identity`, uncompiled. All candidates of a search, for weight
    and for alpha steps, are more than it compiles in a process by default."""
    torch._dynamo.config.accumulated_recompile_limit = MOST_COMPILED
    return torch.compile(module, fullgraph=True, dynamic=False, **_ISOLATED, **options)


def in_layout(layout: str, network: Network, x: Tensor) -> tuple[Network, Tensor]:
    """Copies of one layout."""
    return copy.deepcopy(network).to(memory_format=LAYOUTS[layout]), x.contiguous(memory_format=LAYOUTS[layout])


def warm_up(variants: dict[str, Steps]) -> None:
    """Samples every candidate where only the sampled ones run, once, and ours as often as it takes until a step is what
    it then stays: what is compiled or rehearsed in the first steps is so then."""
    for steps in variants.values():
        for k in range(steps.logits.shape[1] if steps.skipping else 0):
            noise = torch.zeros_like(steps.logits)
            noise[:, k] = 1
            for _ in range(RARE + 1 if steps.model is steps.network else 1):
                for step in (steps.weight, steps.alpha):
                    step(arch_weights(steps.logits, 1.0, noise=noise))


def check_equal(variants: dict[str, Steps], kind: str) -> dict[str, float]:
    """Raises AssertionError where a loss, or a gradient that the step uses, is not that of the first variant.

    The norm of the difference may be 2 % of the norm: rounding takes a few of the millions of values across the zero of
    a ReLU, where the gradient jumps (4e-3 for 64 images, 4e-6 for 4).

    Returns the largest difference of each variant in bfloat16, of which the loss alone is checked: with channels_last,
    oneDNN's gradient of the weights of a dilated depthwise convolution is wrong there, and not the same at every call
    (torch 2.13, AVX-512 BF16, 16 channels).
    """
    results = {name: steps.results(kind) for name, steps in variants.items()}
    expected = next(iter(results.values()))
    rounded = {}
    for name, found in results.items():
        errors = {
            what: ((value - expected[what]).norm() / expected[what].norm()).item() for what, value in found.items()
        }
        if isinstance(variants[name].model, Autocast):
            rounded[name] = max(errors.values())
            errors = {"loss": errors["loss"]}
        for what, error in errors.items():
            assert error < 0.02, f"{kind} step, {name}: {what} is off by {error:.1e}"
    return rounded
