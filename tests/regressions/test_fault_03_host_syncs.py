"""Fault 3: the host waited for every layer (.item(), bool(tensor)); a step may copy the L indices once, no more."""

import dataclasses

import pytest
import torch

from asose_fast.data import cutout, load_data, pool, transform
from asose_fast.data.cutout import cut_out
from asose_fast.engine.alpha import budget, selector
from asose_fast.engine.alpha.estimators import ESTIMATORS, Draw
from asose_fast.engine.host_copy import HostCopy
from asose_fast.engine.recipe.teacher import Distillation, Teacher
from asose_fast.engine.step.meter import Meter
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import Ahead, alpha_step, weight_step
from benchmarks.counting import HostWaits
from tests.helpers import make_trainer

META = torch.device("meta")


def test_the_counter_counts():
    with HostWaits() as waits:
        x = torch.ones(2)
        x.sum().item()
        bool(x[0] > 0)
        x[x > 0]
        x.tolist()
    assert len(waits.found) == 4
    with HostWaits("meta") as waits:
        x.sum().item()
        x.to("meta")
        torch.zeros(2, device="meta").copy_(x)
        torch.tensor([1.0], device="meta")
        x.to("meta", non_blocking=True)
    assert len(waits.found) == 3
    with pytest.raises(RuntimeError), HostWaits("meta"):
        torch.zeros(1, device="meta").item()


@pytest.mark.parametrize("phase", ["warmup", "search", "growth"])
def test_a_weight_step_copies_the_indices_and_nothing_else(tmp_path, phase):
    state = make_trainer(tmp_path).state
    x, y = next(state.data.train.batches(0))
    with HostWaits() as waits:
        path = state.selector.path(phase)
        state.weight_meter.add(weight_step(state.network, state.weight_optimizer, x, y, path, clip=5.0))
    assert waits.found == ["tolist"]


@pytest.mark.parametrize("phase", ["search", "growth"])
def test_an_alpha_step_copies_the_indices_and_nothing_else(tmp_path, phase):
    state = make_trainer(tmp_path).state
    x, y = next(state.data.valid.batches(0))
    with HostWaits(free=[state.alpha_optimizer]) as waits:
        sampled = state.selector.sample(phase)
        path = sampled.index.tolist()
        state.alpha_meter.add(alpha_step(state.network, state.alpha_optimizer, x, y, Draw(sampled.weights, path)))
        state.selector.cool()
    assert waits.found == ["tolist"]


def test_a_trainers_step_adds_the_checks_for_nan_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    phase = trainer.state.phases[1]
    x, y = next(trainer.state.data.train.batches(0))
    with HostWaits(free=[trainer.state.alpha_optimizer]) as waits:
        trainer._weight_step(phase, x, y)
    loss_and_gradient = 2 * ["aten._local_scalar_dense.default"]
    assert waits.found == ["tolist", *loss_and_gradient]
    with HostWaits(free=[trainer.state.alpha_optimizer]) as waits:
        trainer._alpha_step(phase, x, y, Ahead(trainer.state.weight_optimizer, x, y))
    loss_and_alpha = 2 * ["aten._local_scalar_dense.default"]
    assert waits.found == ["tolist", *loss_and_alpha]


@pytest.fixture
def far_away(monkeypatch):
    """The meta device in place of a GPU: its values cannot be read, and copies to it are seen. What is copied to the
    host on purpose is counted, and is 1."""
    copies = []

    def tolist(self):
        copies.append(self)
        return torch.ones(self._values.shape, dtype=torch.int64).tolist()

    monkeypatch.setattr(HostCopy, "tolist", tolist)
    for module in (transform, pool, cutout, selector, budget):  # through pinned memory, where there is a GPU
        monkeypatch.setattr(module, "upload", lambda tensor, device: tensor.to(device, non_blocking=True))
    return copies


def moved(trainer):
    """The trainer with everything that it computes with on the meta device."""
    state = trainer.state
    state.data = load_data(state.config, state.config.batch_size, 0, META)
    state.device = META
    state.network.to(META)
    state.selector.alpha = [row.detach().to(META).requires_grad_() for row in state.selector.alpha]
    state.selector.rng = state.selector.rng.to(META)
    state.weight_optimizer = weight_optimizer(state.config, state.network)
    state.alpha_optimizer = alpha_optimizer(state.selector.alpha, 0.1)
    state.weight_meter, state.alpha_meter = Meter(META), Meter(META)
    if state.average:
        state.average.network.to(META)
    state.lookahead.on = True
    return trainer


@pytest.mark.parametrize(("estimator", "phase"), [("straight_through", 0), *((name, 1) for name in ESTIMATORS)])
def test_an_epoch_waits_for_nothing_but_its_paths(tmp_path, far_away, estimator, phase):
    options = {"beta_decay": 0.1, "derive_max_parameters": 10_000_000}
    trainer = moved(make_trainer(tmp_path, estimator=estimator, **options))
    trainer.state.selector._open({1: 2})  # a candidate that growth has added
    with HostWaits("meta") as waits:
        trainer._train_epoch(trainer.state.phases[phase])
    assert waits.found == []
    steps = trainer.state.progress.step + trainer.state.progress.alpha_steps
    assert trainer.state.progress.step == 5
    assert len(far_away) <= steps
    if estimator != "soft":
        assert len(far_away) == steps
    assert trainer.watch._steps == 5


def test_an_epoch_of_the_derived_network_waits_for_nothing(tmp_path, far_away):
    trainer = make_trainer(tmp_path)
    trainer._enter(trainer.state.phases[-1])
    trainer = moved(trainer)
    with HostWaits("meta") as waits:
        trainer._train_epoch(trainer.state.phases[-1])
    assert (waits.found, far_away) == ([], [])


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_an_epoch_under_a_recipe_waits_for_nothing(tmp_path, far_away, mixing):
    recipe = {mixing: 1.0, "ema_decay": 0.9, "label_smoothing": 0.1, "cutout": 3, "warmup_share": 0.5}
    trainer = make_trainer(tmp_path, **recipe)
    trainer._enter(trainer.state.phases[-1])
    trainer = moved(trainer)
    with HostWaits("meta") as waits:
        trainer._train_epoch(trainer.state.phases[-1])
    assert (waits.found, far_away) == ([], [])


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_class_weights_and_a_teacher_wait_for_nothing(tmp_path, far_away, mixup):
    trainer = make_trainer(tmp_path, class_weights="balanced", label_smoothing=0.1, mixup=mixup)
    trainer._enter(trainer.state.phases[-1])
    trainer = moved(trainer)
    recipe, teacher = trainer.state.task.recipe, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    taught = Distillation(Teacher(teacher, META), 0.5, 4.0)
    trainer.state.task.recipe = dataclasses.replace(
        recipe, class_weights=recipe.class_weights.to(META), distillation=taught
    )
    with HostWaits("meta") as waits:
        trainer._train_epoch(trainer.state.phases[-1])
    assert (waits.found, far_away) == ([], [])


def test_cutout_waits_for_nothing(far_away):
    with HostWaits("meta") as waits:
        cut_out(torch.zeros(4, 3, 8, 8, device=META), 4, torch.Generator())
    assert waits.found == []
