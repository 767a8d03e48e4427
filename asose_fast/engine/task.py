"""A task says what one kind of search has of its own: the network, the data, and how accuracy is measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.data.part import Part
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.growth.control import GrowthControl
from asose_fast.engine.health.diverged import first_nonfinite
from asose_fast.engine.metric import ACCURACY, Metric
from asose_fast.engine.one_value import require_more
from asose_fast.engine.phases import Phase, plan, planned, with_epochs
from asose_fast.engine.processes import Processes
from asose_fast.engine.recipe.class_weights import weights_of
from asose_fast.engine.recipe.recipe import Recipe
from asose_fast.engine.step.meter import Meter
from asose_fast.engine.step.optimizers import graphed_weight_optimizer, of_derived, set_learning_rate
from asose_fast.engine.step.steps import Objective, StepResult, classification
from asose_fast.space.build import ImageNetwork, build, make_spec, of_images, spec_from_dict
from asose_fast.space.network import NetworkSpec
from asose_fast.space.supernet import Supernet

Pairs = Iterable[tuple[Any, Any]]
"""These are batches (x, y)."""


class Batches(Protocol):
    """This is one split of the data. It may ignore the options, which are those of `asose_fast.data.Split.batches`."""

    def num_batches(self) -> int:
        """Returns the number of batches in an epoch."""

    def batches(
        self,
        epoch: int,
        *,
        start: int = 0,
        shuffle: bool | None = None,
        augment: bool | None = None,
        part: Part | None = None,
        turns: Part | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Gives the batches (x, y) of an epoch, from number `start` on, on the device."""


class Splits(Protocol):
    """These are the data of a search."""

    @property
    def train(self) -> Batches:
        """The weights learn on these batches."""

    @property
    def valid(self) -> Batches:
        """Alpha learns on these batches, and the search is measured on them."""

    @property
    def test(self) -> Batches | None:
        """What is found is measured on these batches, once; None: there are none."""

    @property
    def digest(self) -> str:
        """A resumed run recognises its data by this."""


class TrainingRecipe(Protocol):
    """This changes what a derived network is trained on, and what it minimises."""

    def batch(self, x: Any, y: Any, epoch: int, step: int, rank: int = 0) -> tuple[Any, Any]:
        """Returns the batch as it is trained on (`Recipe.batch`)."""

    def objective(self, outputs: Any, y: Any) -> StepResult:
        """Returns what a step minimises and counts, of such a batch."""


class Task(Protocol):
    """A kind of search decides everything that the state and the loop of a search do not decide themselves.

    `ImageTask` searches the spaces of this package on images, `library.ModuleTask` any module on any batches.
    """

    config: Config
    device: torch.device
    """Network and batches are here."""
    phases: tuple[Phase, ...]
    budget: BudgetKeeper
    """It keeps the bounds on what is derived."""
    growth: GrowthControl | None
    """It lets the network grow; None: the network never grows."""

    @property
    def data(self) -> Splits:
        """The search has these training and validation batches."""

    @property
    def all_data(self) -> Splits:
        """The same with the validation batches among the training ones, for a last training."""

    @property
    def recipe(self) -> TrainingRecipe | None:
        """It changes batches and loss in the training of the derived network; None: nothing is changed."""

    @property
    def objective(self) -> Objective:
        """Steps minimise the loss of this, and count the rest."""

    @property
    def metric(self) -> Metric:
        """This is what is called accuracy."""

    @property
    def classes(self) -> int | None:
        """There are so many classes, where what is counted are right predictions."""

    @property
    def settings(self) -> dict[str, Any]:
        """These settings have an effect; they are for those who read about the run."""

    @property
    def identity(self) -> dict[str, Any]:
        """A checkpoint says this of the task, besides the config."""

    def trial(self) -> Self:
        """Returns a task like this one, whose networks share nothing with its own."""

    def supernet(self) -> Supernet:
        """Returns the network that the search begins with."""

    def rebuilt(self, spec: dict[str, Any]) -> Supernet:
        """Returns the network of a `spec` in a checkpoint, whatever its weights."""

    def placed(self, network: Supernet) -> Supernet:
        """Returns the network on the device, in the memory format that suits it."""

    def check(self, network: Supernet, processes: Processes) -> None:
        """Raises ValueError where the network cannot be trained on the data."""

    def selector(self, network: Supernet) -> Selector:
        """Makes alpha for the network."""

    def optimizer(self, network: Supernet) -> torch.optim.Optimizer:
        """Makes an optimizer of all weights."""

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        """Has `optimizer` go on at `rate`, a point of the config's curve."""

    def meter(self) -> Meter:
        """Makes the sums of what steps count."""

    def accuracy(self, network: Supernet, batches: Pairs, processes: Processes) -> float:
        """Returns the metric over `batches`, in evaluation mode."""

    def named_parameters(self, network: Supernet) -> Iterable[tuple[str, Tensor]]:
        """Gives the parameters by the names that the user knows, in the order of the forward pass."""

    def first_nonfinite(self, network: Supernet, selector: Selector, x: Any, path: list[int] | None) -> str:
        """Names the first part of the network that is not finite, or gives what is not, on the batch `x`."""


def plan_again(task: Task, epochs: Sequence[int]) -> None:
    """Gives the phases of a task so many epochs, in its settings too."""
    task.phases = with_epochs(task.phases, epochs)
    task.config = planned(task.config, task.phases)


def fresh(task: Task, network: Supernet) -> Supernet:
    """Returns a derived network like `network` with weights of its own, which all processes draw alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.config.seed)
        return task.rebuilt(network.spec.to_dict())


class ImageTask:
    """This task searches chains or cells on images."""

    metric: Metric = ACCURACY

    def __init__(self, config: Config, data: Data, device: torch.device, teacher: nn.Module | None = None) -> None:
        """Raises ValueError for a space or a growth that cannot be.

        Args:
            config: all settings.
            data: the images, on `device`.
            device: where to compute.
            teacher: a module that the derived network learns from, in place of a path in the settings. It takes the
                images as the network does, and gives scores (N, classes).
        """
        if config.candidates == ("none",):
            raise ValueError("candidates must have another operation than none, got none alone")
        self.config, self.data, self.device, self._teacher = config, data, device, teacher
        self.phases = plan(config)
        self.budget = BudgetKeeper(config, data.image_size)
        self.objective: Objective = partial(classification, class_weights=weights_of(config, data, device))
        self._spec = make_spec(config, data.channels, len(data.classes), data.image_size)
        self.growth: GrowthControl | None = None
        if isinstance(self._spec, NetworkSpec):  # networks of cells do not grow
            self.growth = GrowthControl(config, self._spec, data.image_size, self.budget)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the settings. What never trains a derived network needs no teacher for it. Raises as
        `Recipe.make`."""
        data = self.all_data if self.config.optimize_on == "all" else self.data
        return Recipe.make(self.config, self.config.seed, data, self.device, self._teacher)

    @property
    def all_data(self) -> Data:
        """The data with the validation images among the training ones."""
        return self.data.joined

    @property
    def classes(self) -> int:
        """The images have so many classes."""
        return len(self.data.classes)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings have an effect."""
        return self.config.to_dict()

    @property
    def identity(self) -> dict[str, Any]:
        """The config says it all, but for the teacher."""
        return self.recipe.identity

    def trial(self) -> ImageTask:
        """Returns a copy: every network of it is made anew."""
        return copy.copy(self)

    def supernet(self) -> ImageNetwork:
        """Builds the supernet of the configured space, with fresh weights."""
        return build(self._spec)

    def rebuilt(self, spec: dict[str, Any]) -> ImageNetwork:
        """Builds the network of `spec`, with fresh weights."""
        return build(spec_from_dict(spec))

    def placed(self, network: Supernet) -> Supernet:
        """Returns the network on the device, in channels_last."""
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def check(self, network: Supernet, processes: Processes) -> None:
        """Raises ValueError for a batch on which batch norm has no variance, and as `recipe` does."""
        _ = self.recipe
        joined = [self.data.joined.train] if self.config.optimize_on == "all" else []
        splits = (self.data.train, self.data.valid, *joined)
        apart = 1 if self.config.sync_batch_norm else processes.count
        require_more(of_images(network), len(self.config.candidates), splits, self.data.image_size, apart)

    def selector(self, network: Supernet) -> Selector:
        """Makes alpha with the same candidates in every row."""
        return Selector(self.config, self.config.candidates, network.spec.rows, self.config.seed, self.device)

    def optimizer(self, network: Supernet) -> torch.optim.Optimizer:
        """Makes SGD or AdamW as configured, for a supernet or a derived network. On a GPU its learning rate is kept
        there."""
        if of_images(network).spec.derived:
            return graphed_weight_optimizer(of_derived(self.config), network, self.device, self.config)
        return graphed_weight_optimizer(self.config, network, self.device)

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        """Sets the rate of all parameters."""
        set_learning_rate(optimizer, rate)

    def meter(self) -> Meter:
        """Makes sums with a whole number of right predictions."""
        return Meter(self.device)

    def accuracy(self, network: Supernet, batches: Pairs, processes: Processes) -> float:
        """Returns the share of right predictions, over the batches of all processes."""
        return accuracy(network, batches, processes)

    def named_parameters(self, network: Supernet) -> Iterable[tuple[str, Tensor]]:
        """Gives the parameters by their names in the network."""
        return network.named_parameters()

    def first_nonfinite(self, network: Supernet, selector: Selector, x: Tensor, path: list[int] | None) -> str:
        """Names layer and operation (`diverged.first_nonfinite`)."""
        return first_nonfinite(of_images(network), selector.logits(), x, path)
