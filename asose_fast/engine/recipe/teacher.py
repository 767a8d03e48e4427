"""Distillation: a network learns from a teacher's scores beside the labels (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from asose_fast.data import Data
from asose_fast.engine.step.steps import StepResult
from asose_fast.paths import given_path
from asose_fast.space.copying import deepcopy
from asose_fast.store.networks import LoadedNetwork, load
from asose_fast.training_config import RecipeConfig

AnyRecipe = TypeVar("AnyRecipe", bound=RecipeConfig)
MOST_NAMED = 5
"""An error names so many classes."""


class Taught(NamedTuple):
    """The targets of a batch that a teacher has seen too."""

    targets: Any
    """They are what they would be without a teacher."""
    scores: Tensor
    """The teacher gives these, (N, classes, ...), on the images as they are trained on."""


class Teacher:
    """Gives the scores that a network learns from, without a gradient. Its weights never change.

    Attributes:
        digest: of its tensors or, where it shows none, of its file. Checkpoints know the teacher by it.
    """

    def __init__(
        self,
        network: Callable[[Any], Tensor],
        device: torch.device,
        digest: str | None = None,
        change: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        """Takes a copy of `network`, which stays as it is.

        Args:
            network: a module, of which `digest` is made, or another function of inputs.
            device: a module is moved there. An exported program and a function compute on the CPU.
            digest: of a network that is no module.
            change: is made of the inputs first.
        """
        self._network, self._change, self._device = network, change, torch.device("cpu")
        if isinstance(network, nn.Module):
            digest = _digest(network)
            if not isinstance(network, fx.GraphModule):  # an exported program has its device in its graph, and no eval
                self._device = device
                self._network = deepcopy(network).to(device).eval().requires_grad_(False)
        assert digest is not None
        self.digest = digest

    @torch.no_grad()
    def __call__(self, x: Any) -> Tensor:
        """Returns the scores (N, classes, ...) of inputs, where these are."""
        if not isinstance(x, Tensor):
            return self._network(x)
        return self._network(self._change(x).to(self._device)).to(x.device)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """A loss is drawn to a teacher's probabilities. With its scores t, the network's s, and T the temperature:

        loss = (1 - weight) loss + weight T^2 KL(softmax(t / T) || softmax(s / T))

    KL is a mean over the images; the factor T^2 keeps the size of its gradient where T changes.
    """

    teacher: Teacher
    weight: float
    temperature: float

    def taught(self, x: Any, targets: Any) -> Taught:
        """Returns the targets of a batch with what the teacher says of its inputs."""
        return Taught(targets, self.teacher(x))

    def drawn(self, result: StepResult, scores: Tensor, taught: Taught) -> StepResult:
        """Returns the result of the targets with the loss of this class. Raises ValueError for scores of a shape that
        the teacher's do not have."""
        if not isinstance(scores, Tensor) or scores.shape != taught.scores.shape:
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"the teacher gives scores {tuple(taught.scores.shape)}, the network {shape}: both must "
                "be of the same classes"
            )
        theirs, ours = ((s / self.temperature).log_softmax(1) for s in (taught.scores.to(scores.dtype), scores))
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).mean()
        return result._replace(loss=torch.lerp(result.loss, self.temperature**2 * divergence, self.weight))


def distillation(
    config: RecipeConfig, data: Data, device: torch.device, teacher: nn.Module | None = None
) -> Distillation | None:
    """Returns the distillation that the settings ask for, for images of `data`; None: none.

    `teacher` is a module in place of the settings' path. It takes the images as the network does.

    Raises FileNotFoundError or ValueError for a teacher that cannot be read, or is of other images; OSError.
    """
    if teacher is not None and config.teacher is not None:
        raise ValueError(f"the teacher is given twice, as a module and as {config.teacher}: leave one of them out")
    if teacher is None and config.teacher is None:
        return None
    name = "the teacher" if config.teacher is None else f"the teacher {config.teacher}"
    found = Teacher(teacher, device) if teacher is not None else _read(name, config.teacher or "", data, device)
    given = found(torch.zeros(2, data.channels, data.image_size, data.image_size, device=device))
    if not isinstance(given, Tensor) or given.shape != (2, len(data.classes)):
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"{name} gives scores {shape} for two images, and must give (2, {len(data.classes)})")
    return Distillation(found, config.teacher_weight, config.teacher_temperature)


def _read(name: str, path: str, data: Data, device: torch.device) -> Teacher:
    try:
        loaded = load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. If {name} has moved, give --teacher PATH, where it lies now") from error
    _require_alike(name, loaded, data)
    theirs, scores = loaded.prepared, loaded.scores
    digest = None if isinstance(scores, nn.Module) else hashlib.sha256(given_path(path).read_bytes()).hexdigest()
    if (theirs.mean, theirs.std) == (data.mean, data.std):
        return Teacher(scores, device, digest)
    (mean, std), (its_mean, its_std) = (
        (torch.tensor(part.mean, device=device)[:, None, None], torch.tensor(part.std, device=device)[:, None, None])
        for part in (data, theirs)
    )
    return Teacher(scores, device, digest, lambda x: (x * std + mean - its_mean) / its_std)


def _require_alike(name: str, loaded: LoadedNetwork, data: Data) -> None:
    """Raises ValueError for a teacher of other classes, channels or sizes than the images have."""
    theirs = loaded.prepared
    if theirs.classes != data.classes:
        unlike = [
            f"{whose} alone: {', '.join(sorted(names)[:MOST_NAMED])}{', ...' * (len(names) > MOST_NAMED)}"
            for whose, names in (
                ("the teacher's", {*theirs.classes} - {*data.classes}),
                ("the images'", {*data.classes} - {*theirs.classes}),
            )
            if names
        ]
        raise ValueError(
            f"{name} is of other classes than the images; {'; '.join(unlike) or 'they are in another order'}"
        )
    if len(theirs.mean) != data.channels:
        raise ValueError(f"{name} takes images of {len(theirs.mean)} channels, and these have {data.channels}")
    if theirs.image_size != data.image_size:
        side = theirs.image_size
        raise ValueError(
            f"{name} takes images of {side}x{side} pixels, and these have {data.image_size}x{data.image_size}: give "
            f"--image_size {side}, or a teacher of their size"
        )


def _digest(network: nn.Module) -> str:
    """The SHA-256 of a module's tensors, with their names, shapes and types."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(repr((name, tuple(value.shape), value.dtype)).encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def require_same(there: str | None, here: str | None) -> None:
    """Raises ValueError where a run goes on with another teacher than it was begun with, by their digests."""
    if there == here:
        return
    if there is None or here is None:
        raise ValueError(f"the run was begun {'without' if there is None else 'with'} a teacher")
    raise ValueError("the teacher is not that which the run was begun with: give --teacher PATH, where that lies now")


def located(config: AnyRecipe) -> AnyRecipe:
    """Returns the settings with the teacher's path as it is from any working folder."""
    if config.teacher is None:
        return config
    return dataclasses.replace(config, teacher=os.path.abspath(given_path(config.teacher)))


def without_path(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings, as plain values, that say whether there is a teacher, and not where it lies: its digest says
    which it is."""
    return {**settings, "teacher": settings["teacher"] is not None} if "teacher" in settings else settings
