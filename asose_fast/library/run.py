"""`asose_fast.search`: a whole search in a user's network."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asose_fast.config import Config
from asose_fast.engine.device import device_named
from asose_fast.engine.metric import Metric as Measured
from asose_fast.engine.observer import Observer
from asose_fast.engine.phases import PhaseSpec, plan, schedule
from asose_fast.engine.processes import started
from asose_fast.engine.record import Record
from asose_fast.engine.rehearsal import plan_for
from asose_fast.engine.state import SearchState
from asose_fast.engine.trainer import Trainer
from asose_fast.library.loaders import Loader, Loaders
from asose_fast.library.objective import LibraryObjective, Loss, Metric, doubt
from asose_fast.library.task import WITHOUT_EFFECT, MakeOptimizer, ModuleTask, even_mixture
from asose_fast.observe.metrics import MetricsObserver
from asose_fast.observe.settings import SettingsObserver, write_settings
from asose_fast.paths import given_path
from asose_fast.report.observer import ReportObserver
from asose_fast.space.copying import deepcopy
from asose_fast.space.custom import CustomNetwork
from asose_fast.store import checkpoint_folder, library_search, provenance, run_folder
from asose_fast.store.checkpoint import CheckpointError, write_json
from asose_fast.version import __version__

_FUNCTIONS = {
    "loss": ("outputs and targets", "torch.nn.CrossEntropyLoss()"),
    "metric": ("outputs and targets", "lambda outputs, y: (outputs.argmax(1) == y).float().mean()"),
    "optimizer": ("a list of parameters", "lambda parameters: torch.optim.SGD(parameters, 0.1)"),
}
"""`search` takes these functions: of what, and an example."""
_OF_SGD = ("nesterov", "decay_norms", "optimize_weight_decay")


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    network: nn.Module = dataclasses.field(repr=False)
    """The derived model: the given one with a chosen candidate in place of every MixedOp, trained; plain modules in
    evaluation mode on the device of the search, whose tensors nothing else has."""
    genotype: dict[str, str]
    """The chosen candidate by the name of its MixedOp in the given model. Of a MixedOp within a candidate only where
    that candidate was chosen."""
    alpha: dict[str, dict[str, float]]
    """The logits, by MixedOp and candidate."""
    history: list[Record] = dataclasses.field(repr=False)
    """The metrics of every epoch: `valid_accuracy` and `train_accuracy` are means of the metric, the higher the better:
    of a loss that is the metric, the negatives. `metric_name` says what they are."""
    test_score: float | None
    """The metric of `network` on the test loader, read once, likewise; None without one."""

    @property
    def health(self) -> list[dict[str, Any]]:
        """The indicators of the last epoch that searched: name, value, bound, ok."""
        return next((r["health"] for r in reversed(self.history) if r["phase"] in self._searched), [])

    _searched: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)


def search(
    model: nn.Module,
    loaders: Sequence[Loader],
    config: Config | None = None,
    *,
    loss: Loss | None = None,
    metric: Metric | None = None,
    optimizer: MakeOptimizer | None = None,
    phases: Sequence[PhaseSpec] | None = None,
    teacher: nn.Module | None = None,
    observers: Sequence[Observer] | None = None,
    folder: str | Path | None = None,
) -> SearchResult:
    """Searches the candidates of all MixedOps in `model`, and trains the model that is derived.

    Warmup, search, optimize, as in `asose-fast train` but without growth: 60 epochs unless `config` says
    otherwise. The weights learn on the training batches, alpha on the validation batches. `model` is trained where it
    is; the result does not share tensors with it.

    Args:
        model: any module with `MixedOp`s among its submodules, however deep, called as model(x).
        loaders: (train, valid) or (train, valid, test): iterables of batches (x, y) that give a pass each time they are
            iterated. x and y are tensors, or lists, tuples or dicts of some. Moved to the device.
        config: settings of phases, sampling, estimator, optimizers, guard, health, checkpoints, device and seed. With
            `seconds`, the phases are planned for this time, from the call to its end.
        loss: of (model(x), y), a scalar mean over the batch. None: cross-entropy.
        metric: of the same, a mean score, the higher the better. None: accuracy over the labels that cross-entropy does
            not ignore (-100), or the negative of a `loss` given.
        optimizer: makes the weights' optimizer from a list of all parameters, as in
            `lambda p: torch.optim.AdamW(p, 1e-3)`, in groups if need be; its learning rates fall along the cosine of
            the config. None: SGD as in the config.
        phases: another schedule than that of the config.
        teacher: any module that takes x and gives class scores of the shape of the model's. The derived model learns
            from these too, as `teacher_weight` and `teacher_temperature` of the config say
            (`engine.recipe.teacher.Distillation`). It is copied, and in no checkpoint. None: there is none.
        observers: are told of everything that happens (`asose_fast.Observer`). None: on a terminal, a
            `asose_fast.observe.console.ConsoleObserver` shows the progress; (): nothing is shown.
        folder: for checkpoints, metrics.jsonl, report.html and the network, which `asose_fast.load(folder, model)`
            gives. A search that was interrupted goes on from the newest good checkpoint that it finds there, and ends
            as if it had not been: call `search` with the same arguments once more. None: nothing is written.

    Raises:
        TypeError, ValueError: what is given cannot be searched.
        SearchDivergedError: loss or alpha became NaN or infinite; the message says where.
        CheckpointError: the folder holds another search, or cannot be written.
        FileExistsError: the folder holds something else than a search.
        BlockingIOError: another search writes into the folder.
    """
    began = time.monotonic()
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config must be an asose_fast.Config, got {_kind(config)}: give Config(epochs=4), say")
    for name, function in (("loss", loss), ("metric", metric), ("optimizer", optimizer)):
        _require_function(name, function)
    config = config or Config()
    _require_effective(config)
    if started() > 1:
        _warn(
            f"torchrun has started {started()} processes, and asose_fast.search shares no work: each that calls it "
            "makes a search of its own, which needs a folder of its own"
        )
    if config.seconds is not None and phases is not None:
        raise ValueError("seconds plans the phases of the config: leave out phases, or seconds")
    planned = plan(config, ("warmup", "search", "optimize")) if phases is None else schedule(phases)
    if optimizer is not None and config.alpha_order == "second":
        raise ValueError("alpha_order: second looks ahead along steps of SGD: leave out optimizer")
    if optimizer is not None and config.optimizer != Config.optimizer:
        raise ValueError("optimizer and that of the config both say what trains the weights: leave one of them out")
    if optimizer is not None:
        _require_defaults(config, _OF_SGD, "is of the SGD that optimizer takes the place of: leave one of them out")
    device = device_named(config.device)
    network, data = CustomNetwork(model), Loaders(loaders, device, config.seed)
    task = ModuleTask(network, data, config, device, planned, LibraryObjective(loss, metric), optimizer, teacher)
    state = SearchState(task)
    path = None if folder is None else given_path(folder)
    _try(task)
    if config.seconds is not None and not (path and checkpoint_folder.holds_checkpoints(path / "checkpoints")):
        deadline = plan_for(config.seconds, task, state.processes, began)
        state = SearchState(task)
        state.deadline = deadline
    with ExitStack() as held:
        trainer = Trainer(state, path, _console(held) if observers is None else observers)
        network.derive(state.best_path())
        if path is None:
            _say_shortcomings(state)
            return _run(trainer, task)
        held.enter_context(run_folder.claimed(path))
        report = _prepare(trainer, path)
        _say_shortcomings(state)
        with report.to_the_end(state):
            result = _run(trainer, task)
            library_search.save(path, network, state.best_path(), result.network)
            write_json(path / "summary.json", _summary(state, result))
    return result


def _console(held: ExitStack) -> list[Observer]:
    """What shows a search on a terminal, and nothing elsewhere. `held` takes its bar away."""
    from asose_fast.observe.console import ConsoleObserver

    screen = held.enter_context(closing(ConsoleObserver()))
    return [screen] if screen.console.is_terminal else []


def _run(trainer: Trainer, task: ModuleTask) -> SearchResult:
    try:
        trainer.run()
    finally:
        task.network.plan()
    return _result(trainer.state, task)


def _require_function(name: str, given: object) -> None:
    """Raises TypeError for what cannot be called as `search` does, which makes an optimizer, but no module."""
    takes, example = _FUNCTIONS[name]
    if given is None or (callable(given) and not (isinstance(given, type) and issubclass(given, nn.Module))):
        return
    raise TypeError(f"{name} must be a function of {takes}, as {example}; got {_kind(given)}")


def _kind(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else f"a value of the type {type(given).__name__}"


def _require_effective(config: Config) -> None:
    """Raises ValueError for a setting that this search would leave unheeded."""
    _require_defaults(
        config, WITHOUT_EFFECT, "has no effect on a search in a network and data of your own: leave it out"
    )


def _require_defaults(config: Config, names: Sequence[str], reason: str) -> None:
    default = Config()
    for name in names:
        if getattr(config, name) != getattr(default, name):
            raise ValueError(f"{name} {reason}")


@torch.no_grad()
def _try(task: ModuleTask) -> None:
    """Runs all candidates on one batch of training and one of validation, in evaluation mode, so that what does not fit
    is told before the search.

    Raises ValueError for a mixed operation that the model does not run, or that cannot run.
    """
    network, ran = task.network, set[str]()
    x, y = next(task.data.train.batches(0))
    was_training = network.training
    handles = [op.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, op in network.mixed.items()]
    weights = even_mixture(network, task.device)
    try:
        outputs = network.eval()(x, weights)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        where = _where_it_fails(network, x, weights)
        if where is None:
            raise
        raise ValueError(f"{where} cannot run on the first training batch: {error}") from error
    else:
        task.objective(outputs, y)
        if task.recipe:
            task.recipe.objective(outputs, task.recipe.batch(x, y, 0, 0)[1])
        x, y = next(task.data.valid.batches(0))
        task.objective(network(x, weights), y)
    finally:
        for handle in handles:
            handle.remove()
        network.train(was_training)
    if idle := [name for name in network.mixed if name not in ran]:
        raise ValueError(f"the model does not run its mixed operation {idle[0]!r}: nothing can be learned about it")


def _where_it_fails(network: CustomNetwork, x: Any, weights: Tensor) -> str | None:
    """The innermost mixed operation, and candidate of it, that a forward pass enters and does not leave."""
    inside: list[str] = []
    handles: list[RemovableHandle] = []
    for name, op in network.mixed.items():
        places: list[tuple[nn.Module, str]] = [(op, f"mixed operation {name!r}")]
        places += [(module, f"candidate {k!r} of mixed operation {name!r}") for k, module in op.ops.items()]
        for module, place in places:
            handles.append(module.register_forward_pre_hook(lambda *_, place=place: inside.append(place)))
            handles.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        network(x, weights)
    except Exception:
        return inside[-1] if inside else None
    finally:
        for handle in handles:
            handle.remove()
    return None


def _prepare(trainer: Trainer, folder: Path) -> ReportObserver:
    """Goes on from the newest good checkpoint of `folder`, if there is one; settings, metrics and report go there.

    Raises CheckpointError where it is of another search.
    """
    state = trainer.state
    if checkpoint_folder.holds_checkpoints(folder / "checkpoints"):
        path, saved = checkpoint_folder.load_newest(folder / "checkpoints", _warn)
        try:
            _plan_as(saved, state)
            _require_same(saved, state)
            provenance.check(saved["provenance"], state.provenance(), _warn)
            state.load_state_dict(saved)
        except Exception as error:
            told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise CheckpointError(f"cannot go on from {path}: {told}. Give another folder") from error
    else:
        run_folder.require_empty(folder, "give another folder")
        trainer.save("last")  # from here on the folder is known to hold this search
    metrics = MetricsObserver(folder / "metrics.jsonl")
    metrics.restore(state.history)
    write_settings(folder, state.settings)
    report = ReportObserver(folder, _warn)
    trainer.observers += [metrics, SettingsObserver(folder), report]
    return report


def _score(metric: Measured, score: float | None) -> dict[str, Any] | None:
    """A score as people read it. What the records call accuracy has the sign of a loss changed."""
    return score if score is None else {"name": metric.name, "value": metric.value(score), "better": metric.direction}


def _summary(state: SearchState, result: SearchResult) -> dict[str, Any]:
    """What the report says of a search that is finished."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(state.device),
        "threads": torch.get_num_threads(),
        **state.task.metric.said,
        "test_accuracy": result.test_score,
        "test": _score(state.task.metric, result.test_score),
        "valid_accuracy": state.progress.best_accuracy,
        "choices": result.genotype,
        "parameters": sum(p.numel() for p in result.network.parameters()),
        "batch_size_errors": sum(r["batch_size_errors"] for r in result.history),
        "health": result.health,
        "shortcomings": state.shortcomings,
    }


_TOLD = {
    "metric": "the kind of the metric",
    "metric_name": "the metric",
    "loss_name": "the loss",
    "optimizer": "the optimizer",
}


def _plan_as(saved: dict[str, Any], state: SearchState) -> None:
    """Plans a search as the saved one was planned, where both were given the same time and epochs."""
    given = {phase.name: phase.epochs for phase in state.phases}
    there = saved.get("deadline", {})
    if (there.get("seconds"), there.get("shares")) == (state.config.seconds, given):
        state.plan_again([saved["config"][f"{name}_epochs"] for name in given])


def _require_same(saved: dict[str, Any], state: SearchState) -> None:
    if not library_search.wrote(saved):
        raise ValueError("it was not written by asose_fast.search, but by `asose-fast train`, say")
    there, here, now = Config.completed(saved["config"]), state.config.to_dict(), state.task.identity
    unlike = [
        f"{name} {there.get(name)} there, {value} here" for name, value in here.items() if value != there.get(name)
    ]
    functions = saved.get("functions", now["functions"])  # checkpoints of 0.2.0 do not name them
    unlike += [
        f"{_TOLD[name]} {functions.get(name)} there, {value} here"
        for name, value in now["functions"].items()
        if value != functions.get(name)
    ]
    if saved["schedule"] != now["schedule"]:
        unlike.append("the phases")
    if saved["mixed"] != now["mixed"]:
        unlike.append("the model's mixed operations")
    if saved.get("teacher") != now.get("teacher"):
        unlike.append("the teacher")
    if unlike:
        raise ValueError(f"it is of a search with other settings: {'; '.join(unlike)}")


def _say_shortcomings(state: SearchState) -> None:
    """Warns of what the plan of a search that begins is too short for, and of a metric of a doubtful direction."""
    if not state.history and not state.progress.step:
        direction = doubt(state.task.metric)
        for message in [*state.shortcomings, *([direction] if direction else [])]:
            _warn(message)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _result(state: SearchState, task: ModuleTask) -> SearchResult:
    model, test = _finished_model(state, task), task.data.test
    return SearchResult(
        model,
        task.network.genotype(state.best_path()),
        named_alpha(task.network, state.selector.alpha),
        state.history,
        None if test is None else task.accuracy(model, test.batches(0), state.processes),
        frozenset(phase.name for phase in state.phases if phase.searching),
    )


def _finished_model(state: SearchState, task: ModuleTask) -> nn.Module:
    """The derived model of the epoch with the best validation score after the derivation; of a schedule that derives
    nothing, that of alpha as it is. Plain modules, with tensors of their own, in evaluation mode."""
    if state.best is None:
        return deepcopy(state.derived().get_submodule("model")).eval()
    network = task.rebuilt(state.best["spec"])
    network.model = deepcopy(network.model)
    network.load_state_dict(state.best["network"])
    return network.model.eval()


def named_alpha(network: CustomNetwork, alpha: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """The rows of alpha, by mixed operation and candidate."""
    rows = [row.tolist() for row in alpha]
    return {
        name: {network.candidates[k]: row[k] for k in columns}
        for name, columns, row in zip(network.mixed, network.columns, rows, strict=True)
    }
