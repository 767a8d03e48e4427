"""The settings of training weights: the supernet's, the derived network's, and those from scratch."""

from __future__ import annotations

import dataclasses
from typing import Literal

from asose_fast.bounds import Settings, bounded


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """SGD with a cosine trains the weights, Adam trains alpha (docs/concepts.md)."""

    learning_rate: float = bounded(0.025, least=0, most=1e30)
    """The weights' learning rate begins at this, for the supernet and again for the derived network."""
    learning_rate_min: float = bounded(0.001, least=0, most=1e30)
    """The cosine of the supernet ends at this rate; that of the derived network ends at 0."""
    momentum: float = bounded(0.9, least=0, most=1)
    """The weights' steps have this momentum."""
    weight_decay: float = bounded(3e-4, least=0, most=1e30)
    """The weights decay by this factor of the learning rate in each step."""
    gradient_clip: float = bounded(5.0, least=0, most=1e30)
    """The norm of the weights' gradient is at most this; 0: no bound."""
    alpha_learning_rate: float | None = bounded(None, least=0, most=1e30)
    """The learning rate of alpha is this. None: 12 / (alpha steps of the search phase), between 0.0003 and 0.1. For
    Adam moves a logit by about its rate in each step, and a layer must be able to decide within the phase however short
    it is."""
    alpha_every: int = bounded(5, least=2, most=10**9)
    """One batch of so many is an alpha step."""


@dataclasses.dataclass(frozen=True)
class RecipeConfig(Settings):
    """The recipe trains a derived network, in the phase optimize and from scratch (docs/concepts.md). By default it is
    plain SGD."""

    warmup_share: float = bounded(0.0, least=0, below=1)
    """The learning rate rises linearly from 0 over this share of the training, and falls along the cosine after it."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD trains the weights, or AdamW, whose moments decay by `momentum` and 0.999. AdamW wants a smaller learning
    rate, such as 0.002."""
    nesterov: bool = False
    """The momentum of SGD is Nesterov's, which looks a step ahead."""
    decay_norms: bool = True
    """The weight decay holds for norms, biases and gains too; otherwise for the kernels and matrices alone."""
    ema_decay: float = bounded(0.0, least=0, below=1)
    """The network that is measured and kept is an exponential moving average of the weights with this decay, or with
    (1 + t) / (10 + t) after t steps where that is less; 0: the weights themselves."""
    label_smoothing: float = bounded(0.0, least=0, below=1)
    """This share of the target goes to all classes alike."""
    class_weights: Literal["balanced"] | None = None
    """Every class counts as much as any other, however many images it has: in the search's losses too, which choose
    what this training is of. None: every image counts the same."""
    auto_augment: Literal["none", "trivial", "rand"] = "none"
    """Each training image is changed by torchvision's TrivialAugmentWide or RandAugment, or by neither."""
    cutout: int = bounded(0, least=0, most=10**4)
    """A square of this side, in pixels, is blanked in every training image; 0: none."""
    mixup: float = bounded(0.0, least=0, most=1e6)
    """Each image is blended with another of its batch, in shares from Beta(mixup, mixup); 0: none."""
    cutmix: float = bounded(0.0, least=0, most=1e6)
    """A rectangle of each image comes from another of its batch; its area is a share from Beta(cutmix, cutmix). With
    `mixup` too, each batch gets one of the two; 0: none."""
    mix_share: float = bounded(1.0, least=0, most=1)
    """Mixup and cutmix take this share of the batches; the others stay as they are."""
    teacher: str | None = None
    """The training learns from the scores of this network too: a run folder, or a file that export wrote; None: from
    labels alone."""
    teacher_weight: float = bounded(0.5, least=0, most=1)
    """The loss against the teacher has this weight, and that of the labels the rest."""
    teacher_temperature: float = bounded(4.0, above=0, most=1e3)
    """Scores of both networks are divided by this before they are compared; the higher, the more the teacher's small
    probabilities tell."""


@dataclasses.dataclass(frozen=True)
class OptimizeConfig(Settings):
    """The phase optimize trains the derived network with these settings of its own."""

    optimize_learning_rate: float | None = bounded(None, least=0, most=1e30)
    """The derived network's learning rate is at most this; None: `learning_rate`."""
    optimize_weight_decay: float | None = bounded(None, least=0, most=1e30)
    """The derived network's weights decay by this factor; None: `weight_decay`."""
    optimize_from: Literal["supernet", "scratch"] = "supernet"
    """The derived network begins with the weights that it has in the supernet and their momentum, or anew."""
    optimize_on: Literal["train", "all"] = "train"
    """The phase trains on the training images, and the epoch of the best validation accuracy is kept. Or it trains on
    all but the test images; then there is no validation accuracy, and the last epoch is kept."""


def require_momentum(recipe: RecipeConfig, momentum: float) -> None:
    """Raises ValueError for Nesterov's momentum without momentum, and for a moment of AdamW that never decays."""
    if recipe.nesterov and not momentum:
        raise ValueError(f"nesterov needs a momentum above 0, got {momentum}")
    if recipe.optimizer == "adamw" and momentum == 1:
        raise ValueError("adamw needs a momentum below 1")
