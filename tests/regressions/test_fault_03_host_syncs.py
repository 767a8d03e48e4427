"""Fault 3: the host waited for every layer (.item(), bool(tensor)); a step may copy the L indices once, no more."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from asose_fast.search.estimators import Draw
from asose_fast.search.steps import Ahead, alpha_step, weight_step
from tests.helpers import make_trainer


class Waits(TorchDispatchMode):
    """Lists what makes the host wait: operators that read a value back, and copies to lists.

    Adam counts its steps in tensors that lie on the host wherever the parameters are: reading those is free.
    """

    def __init__(self, optimizer):
        super().__init__()
        self.found = []
        self.optimizer = optimizer
        found = self.found

        class Copies(TorchFunctionMode):
            def __torch_function__(self, function, types, arguments=(), keywords=None):
                if getattr(function, "__name__", "") in ("tolist", "cpu", "numpy", "__array__"):
                    found.append(function.__name__)
                return function(*arguments, **(keywords or {}))

        self.copies = Copies()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        counts = {state["step"].data_ptr() for state in self.optimizer.state.values() if "step" in state}
        if "_local_scalar_dense" in str(function) and arguments[0].data_ptr() in counts:
            pass
        elif any(name in str(function) for name in ("_local_scalar_dense", "nonzero", "equal.default")) or (
            "index.Tensor" in str(function) and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        ):
            self.found.append(str(function))
        return function(*arguments, **(keywords or {}))

    def __enter__(self):
        self.copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        return self.copies.__exit__(*error)


def test_the_counter_counts():
    with Waits(torch.optim.SGD([torch.zeros(1)])) as waits:
        x = torch.ones(2)
        x.sum().item()
        bool(x[0] > 0)
        x[x > 0]
        x.tolist()
    assert len(waits.found) == 4


@pytest.mark.parametrize("phase", ["warmup", "search", "growth"])
def test_a_weight_step_copies_the_indices_and_nothing_else(tmp_path, phase):
    trainer = make_trainer(tmp_path)
    x, y = next(trainer.data.train.batches(0))
    with Waits(trainer.weights) as waits:
        path = trainer.selector.path(phase)
        trainer.weight_meter.add(weight_step(trainer.network, trainer.weights, x, y, path, clip=5.0))
    assert waits.found == ["tolist"]


@pytest.mark.parametrize("phase", ["search", "growth"])
def test_an_alpha_step_copies_the_indices_and_nothing_else(tmp_path, phase):
    trainer = make_trainer(tmp_path)
    x, y = next(trainer.data.valid.batches(0))
    with Waits(trainer.alpha) as waits:
        sampled = trainer.selector.sample(phase)
        path = sampled.index.tolist()
        trainer.alpha_meter.add(alpha_step(trainer.network, trainer.alpha, x, y, Draw(sampled.weights, path)))
        trainer.selector.cool()
    assert waits.found == ["tolist"]


def test_a_trainers_step_adds_the_checks_for_nan_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    phase = trainer.phases[1]
    x, y = next(trainer.data.train.batches(0))
    with Waits(trainer.weights) as waits:
        trainer._weight_step(phase, x, y)
    assert waits.found == ["tolist", "aten._local_scalar_dense.default"]
    with Waits(trainer.alpha) as waits:
        trainer._alpha_step(phase, x, y, Ahead(trainer.weights, x, y))
    loss_and_alpha = 2 * ["aten._local_scalar_dense.default"]
    assert waits.found == ["tolist", *loss_and_alpha]
