"""The trainer of a user's own network, on a user's own batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from asose_fast.config import BudgetConfig, Config, GrowthConfig, ProcessesConfig, SpaceConfig
from asose_fast.data import Data
from asose_fast.data.config import DataConfig
from asose_fast.search.collapse import Metric
from asose_fast.search.evaluate import averaged
from asose_fast.search.library.loaders import Loaders
from asose_fast.search.library.objective import LibraryObjective
from asose_fast.search.library.selector import MaskedSelector
from asose_fast.search.meter import Meter
from asose_fast.search.observer import Observer
from asose_fast.search.phases import Phase
from asose_fast.search.selector import Selector
from asose_fast.search.trainer import Trainer
from asose_fast.space.build import Supernet
from asose_fast.space.copying import deepcopy
from asose_fast.space.custom import CustomNetwork

WITHOUT_EFFECT = (
    *(
        field.name
        for part in (DataConfig, SpaceConfig, GrowthConfig, BudgetConfig, ProcessesConfig)
        for field in dataclasses.fields(part)
    ),
    "growth_epochs", "batch_size", "threads", "strict", "graphs",
)  # fmt: skip
"""Settings of Config that say nothing to a search in a network and data of the user's own."""
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class LibraryTrainer(Trainer):
    """A Trainer whose network, data, optimizer and objective are given to it.

    `CustomNetwork` and `Loaders` have what a Trainer uses of a Supernet and of Data, but for what belongs to images
    alone: such a network does not grow, and has no bounds.
    """

    objective: LibraryObjective

    def __init__(
        self,
        network: CustomNetwork,
        loaders: Loaders,
        config: Config,
        device: torch.device,
        folder: Path | None,
        phases: Sequence[Phase],
        objective: LibraryObjective,
        optimizer: MakeOptimizer | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """`folder`: of the checkpoints; None: none are written. `optimizer`: of weights; None: SGD of the config."""
        self.given, self._make_optimizer, self._writes = network, optimizer, folder is not None
        super().__init__(
            config,
            cast(Data, loaders),
            device,
            folder or Path(),
            observers,
            phases=phases,
            objective=objective,
        )
        self.weight_meter, self.alpha_meter = (Meter(device, torch.float64) for _ in range(2))  # scores are not counts

    @property
    def settings(self) -> dict[str, Any]:
        """Those that have an effect."""
        return {name: value for name, value in super().settings.items() if name not in WITHOUT_EFFECT}

    @property
    def custom(self) -> CustomNetwork:
        """The present network, as what it is."""
        return cast(CustomNetwork, self.network)

    def _supernet(self) -> Supernet:
        return cast(Supernet, self.given)

    def _rebuilt(self, spec: dict[str, Any]) -> Supernet:
        return cast(Supernet, self.given if spec["path"] is None else self.given.derive(spec["path"]))

    def _selector(self, network: Supernet) -> Selector:
        return MaskedSelector(self.config, self.given, self.config.seed, self.device)

    def _placed(self, network: Supernet) -> Supernet:
        return network.to(self.device)

    def _weight_optimizer(self) -> torch.optim.Optimizer:
        if self._make_optimizer is None:
            return super()._weight_optimizer()
        optimizer = self._make_optimizer(list(self.network.parameters()))
        _require_complete(optimizer, self.custom.model)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def _set_learning_rate(self, rate: float) -> None:
        """That of an optimizer of the user's falls from what it is along the same curve."""
        if self._make_optimizer is None:
            return super()._set_learning_rate(rate)
        for group in self.weights.param_groups:
            group["lr"] = group["initial_lr"] * rate / self.config.learning_rate

    def _named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        return self.custom.model.named_parameters()

    def _first_nonfinite(self, x: Any, path: list[int] | None) -> str:
        """Names the first submodule, in the order of the forward pass, with something that is not finite."""
        found: list[str] = []

        def look(name: str) -> Callable[[nn.Module, object, object], None]:
            def note(module: nn.Module, _: object, output: object) -> None:
                parameters = list(module.parameters(recurse=False))
                outputs = [output] if isinstance(output, Tensor) and output.is_floating_point() else []
                if not found and not all(bool(t.isfinite().all()) for t in [*parameters, *outputs]):
                    found.append(f"module {name}")

            return note

        handles = [m.register_forward_hook(look(name)) for name, m in self.custom.model.named_modules() if name]
        with torch.no_grad():
            plan: dict[str, Any] = {}
            if path is not None:
                available = self.given.available.to(self.device, torch.float32)
                plan["weights"] = available / available.sum(1, keepdim=True)
            self.custom(x, **plan)
        for handle in handles:
            handle.remove()
        if found:
            return found[0]
        return "the loss" if all(bool(row.isfinite().all()) for row in self.selector.alpha) else "alpha"

    def _classes(self) -> int | None:
        return self.objective.classes

    def _metric(self) -> Metric:
        return self.objective.measures

    def _valid_accuracy(self, network: Supernet) -> float:
        return self.score(cast(CustomNetwork, network), self.data.valid.batches(0))

    def score(self, network: nn.Module, batches: Iterable[tuple[Any, Any]]) -> float:
        """The mean metric over `batches`, in evaluation mode."""
        return averaged(network, batches, self.objective)

    def finished_model(self) -> nn.Module:
        """The derived model of the epoch with the best validation score after the derivation; of a schedule that
        derives nothing, that of alpha as it is. Plain modules, with tensors of their own, in evaluation mode."""
        if self.best is None:
            network = cast(CustomNetwork, self.derived())
            return deepcopy(network.model).eval()
        network = self.given.derive(self.best["spec"]["path"])
        network.model = deepcopy(network.model)
        network.load_state_dict(self.best["network"])
        return network.model.eval()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        schedule = [dataclasses.asdict(phase) for phase in self.phases]
        mixed = {name: list(op.ops) for name, op in self.given.mixed.items()}
        return {**state, "schedule": schedule, "mixed": mixed}

    def save(self, name: str) -> None:
        if self._writes:
            super().save(name)
        else:
            self.cadence.restart()


def _require_complete(optimizer: object, model: nn.Module) -> None:
    """Raises TypeError for what is no optimizer, ValueError for one that would leave a parameter as it is."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"optimizer must hold every parameter that it is given: {missing[0]}{more} of the model would not be "
            "trained (what is not to be needs requires_grad_(False))"
        )
