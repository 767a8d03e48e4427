"""This task searches a user's own network on a user's own batches."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.config import Config, GrowthConfig, ProcessesConfig, SpaceConfig
from asose_fast.data.config import DataConfig
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.evaluate import averaged
from asose_fast.engine.growth.control import GrowthControl
from asose_fast.engine.metric import Metric
from asose_fast.engine.phases import Phase
from asose_fast.engine.processes import Processes
from asose_fast.engine.step.meter import Meter
from asose_fast.engine.step.optimizers import graphed_weight_optimizer, of_derived, set_learning_rate
from asose_fast.engine.task import Pairs
from asose_fast.library.budget import ModuleBudget
from asose_fast.library.loaders import Loaders
from asose_fast.library.objective import LibraryObjective
from asose_fast.library.recipe import TaughtRecipe
from asose_fast.library.selector import MaskedSelector
from asose_fast.space.copying import deepcopy
from asose_fast.space.custom import CustomNetwork
from asose_fast.space.supernet import Supernet

WITHOUT_EFFECT = (
    *(
        field.name
        for part in (DataConfig, SpaceConfig, GrowthConfig, ProcessesConfig)
        for field in dataclasses.fields(part)
    ),
    "growth_epochs", "batch_size", "threads", "strict", "graphs",
    "label_smoothing", "class_weights", "auto_augment", "cutout", "mixup", "cutmix", "mix_share", "teacher",
    "optimize_from", "optimize_on",
)  # fmt: skip
"""These settings of Config say nothing to a search in a network and data of the user's own."""
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class ModuleTask:
    """This task searches the mixed operations of any module. Such a network does not grow."""

    growth: GrowthControl | None = None

    def __init__(
        self,
        network: CustomNetwork,
        loaders: Loaders,
        config: Config,
        device: torch.device,
        phases: Sequence[Phase],
        objective: LibraryObjective,
        optimizer: MakeOptimizer | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """Takes `optimizer` to make that of the weights; None: SGD of the config. The derived network learns from
        `teacher` too; None: there is none."""
        self.network, self.data, self.config, self.device = network, loaders, config, device
        self.phases, self.objective, self._make_optimizer = tuple(phases), objective, optimizer
        self.recipe = TaughtRecipe.make(config, objective, teacher, device)
        self.budget: BudgetKeeper = ModuleBudget(config, loaders.train)
        self.optimizer_name = torch.optim.SGD.__name__
        """Of the type of the weights' optimizer, once there is one."""

    @property
    def all_data(self) -> Loaders:
        """The data as they are: a last training on all of them is asked for of images alone."""
        return self.data

    @property
    def metric(self) -> Metric:
        """The objective measures this."""
        return self.objective.measures

    @property
    def classes(self) -> int | None:
        """There are as many as the model has scores, where accuracy is measured."""
        return self.objective.classes

    @property
    def settings(self) -> dict[str, Any]:
        """These settings have an effect."""
        return {name: value for name, value in self.config.to_dict().items() if name not in WITHOUT_EFFECT}

    @property
    def identity(self) -> dict[str, Any]:
        """A checkpoint has the schedule, the mixed operations with their candidates, what is measured and minimised by
        name, and the type of the weights' optimizer."""
        mixed = {name: list(op.ops) for name, op in self.network.mixed.items()}
        functions = {**self.metric.said, "optimizer": self.optimizer_name}
        return {
            "schedule": [dataclasses.asdict(phase) for phase in self.phases],
            "mixed": mixed,
            "functions": functions,
            **({"teacher": self.recipe.distillation.teacher.digest} if self.recipe else {}),
        }

    def trial(self) -> ModuleTask:
        """Returns a task like this one, in a copy of the network."""
        trial = copy.copy(self)
        trial.network = deepcopy(self.network)
        return trial

    def supernet(self) -> Supernet:
        """Returns the network that was given."""
        return self.network

    def rebuilt(self, spec: dict[str, Any]) -> CustomNetwork:
        """Returns the given network itself, or what is derived from it, with its parameters."""
        return self.network if spec["path"] is None else self.network.derive(spec["path"])

    def placed(self, network: Supernet) -> Supernet:
        """Returns the network on the device."""
        return network.to(self.device)

    def check(self, network: Supernet, processes: Processes) -> None:
        """Does nothing: the network has run on a batch of the data before (`run.search`)."""

    def selector(self, network: Supernet) -> Selector:
        """Makes alpha with rows of which each has candidates of its own."""
        return MaskedSelector(self.config, self.network, self.config.seed, self.device)

    def optimizer(self, network: Supernet) -> torch.optim.Optimizer:
        """Returns what the user's function makes; without one, SGD of the config."""
        if self._make_optimizer is None:
            if isinstance(network, CustomNetwork) and network.spec.path is not None:
                return graphed_weight_optimizer(of_derived(self.config), network, self.device, self.config)
            return graphed_weight_optimizer(self.config, network, self.device)
        optimizer = self._make_optimizer(list(network.parameters()))
        _require_complete(optimizer, self.named_parameters(network))
        self.optimizer_name = type(optimizer).__name__
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        """Lets the rate of the user's optimizer fall from what it is along the same curve."""
        if self._make_optimizer is None:
            set_learning_rate(optimizer, rate)
            return
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate / self.config.learning_rate

    def meter(self) -> Meter:
        """Makes sums of scores, which are not counts."""
        return Meter(self.device, torch.float64)

    def accuracy(self, network: nn.Module, batches: Pairs, processes: Processes) -> float:
        """Returns the mean metric over `batches`."""
        return averaged(network, batches, self.objective)

    def named_parameters(self, network: Supernet) -> Iterable[tuple[str, nn.Parameter]]:
        """Gives the parameters by their names in the user's model."""
        return ((name.removeprefix("model."), p) for name, p in network.named_parameters())

    def first_nonfinite(self, network: Supernet, selector: Selector, x: Any, path: list[int] | None) -> str:
        """Names the first submodule, in the order of the forward pass, with something that is not finite."""
        found: list[str] = []

        def look(name: str) -> Callable[[nn.Module, object, object], None]:
            def note(module: nn.Module, _: object, output: object) -> None:
                parameters = list(module.parameters(recurse=False))
                outputs = [output] if isinstance(output, Tensor) and output.is_floating_point() else []
                if not found and not all(bool(t.isfinite().all()) for t in [*parameters, *outputs]):
                    found.append(f"module {name}")

            return note

        model = network.get_submodule("model")
        handles = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if name]
        with torch.no_grad():
            plan: dict[str, Any] = {}
            if path is not None:
                plan["weights"] = even_mixture(self.network, self.device)
            network(x, **plan)
        for handle in handles:
            handle.remove()
        if found:
            return found[0]
        return "the loss" if all(bool(row.isfinite().all()) for row in selector.alpha) else "alpha"


def even_mixture(network: CustomNetwork, device: torch.device) -> Tensor:
    """Returns the weights (L, K) with which every mixed operation runs all that it has, each as much as the others."""
    available = network.available.to(device, torch.float32)
    return available / available.sum(1, keepdim=True)


def _require_complete(optimizer: object, named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raises TypeError for what is no optimizer, ValueError for one that would leave a parameter as it is."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in named if p.requires_grad and id(p) not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"optimizer must hold every parameter that it is given: {missing[0]}{more} of the model would not be "
            "trained (what is not to be needs requires_grad_(False))"
        )
