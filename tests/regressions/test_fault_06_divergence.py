"""Fault 6: NaN silently became skip; it must end the run, name the place and keep the last good checkpoint."""

import math
import re

import pytest
import torch

from asose_fast import train as train_module
from asose_fast.engine.health.diverged import SearchDivergedError, nonfinite_gradient
from asose_fast.engine.trainer import Trainer
from asose_fast.store import checkpoint
from tests.helpers import FEW, TINY, OnStep, make_trainer


def poison_operation(state):
    with torch.no_grad():
        state.network.blocks[1].mixed.ops["sep_conv_3x3"][1].weight.fill_(math.nan)


def poison_alpha(state):
    with torch.no_grad():
        state.selector.alpha[1][2] = math.nan


def at(epoch, step, action):
    def act(state):
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            action(state)

    return OnStep(act)


def all_finite(path):
    state = checkpoint.load(path)
    tensors = [*state["network"].values(), state["selector"]["alpha"]]
    return all(t.isfinite().all() for t in tensors)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("epoch", "phase"), [(1, "search"), (3, "growth")])
def test_nan_in_an_operation_is_named(tmp_path, epoch, phase, seed):
    """Whether a weight step samples it first or an alpha step computes it: the seeds give both."""
    trainer = make_trainer(tmp_path, [at(epoch, 1, poison_operation)], seed=seed)
    with pytest.raises(SearchDivergedError, match=rf"phase {phase}, epoch {epoch + 1}, after \d steps") as caught:
        trainer.run()
    assert "layer 2, operation sep_conv_3x3" in str(caught.value)
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["progress"]["epoch"] == epoch
    assert all_finite(tmp_path / "checkpoints" / "last.pt")


def test_nan_in_alpha_is_named(tmp_path):
    trainer = make_trainer(tmp_path, [at(1, 1, poison_alpha)])
    with pytest.raises(SearchDivergedError, match=r"phase search, epoch 2, after \d steps") as caught:
        trainer.run()
    assert re.search(r"alpha of layer 2, operation max_pool_3x3", str(caught.value))
    assert all_finite(tmp_path / "checkpoints" / "last.pt")


def test_nan_in_the_last_step_of_an_epoch_does_not_replace_the_good_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, [at(1, 5, poison_operation)])
    with pytest.raises(SearchDivergedError, match="layer 2, operation sep_conv_3x3"):
        trainer.run()
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["progress"]["epoch"] == 1
    assert all_finite(tmp_path / "checkpoints" / "last.pt")


@pytest.mark.parametrize("part", ["stem", "head"])
def test_nan_outside_the_blocks_is_named(tmp_path, part):
    def poison(state):
        with torch.no_grad():
            next(getattr(state.network, part).parameters()).fill_(math.nan)

    trainer = make_trainer(tmp_path, [at(1, 1, poison)])
    with pytest.raises(SearchDivergedError, match="the stem" if part == "stem" else "the classifier"):
        trainer.run()


def spoil_gradient(state):
    weight = state.network.blocks[1].mixed.ops["sep_conv_3x3"][1].weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, math.nan))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("clip", [5.0, 0.0])
def test_nan_in_a_gradient_is_named(tmp_path, clip, precision):
    """Bounding the norm would spoil every parameter, and the first of them is in the stem."""
    trainer = make_trainer(tmp_path, [at(1, 1, spoil_gradient)], gradient_clip=clip, precision=precision)
    with pytest.raises(SearchDivergedError, match=r"in phase \w+, epoch \d, after \d steps") as caught:
        trainer.run()
    gradient = "the gradient of blocks.1.mixed.ops.sep_conv_3x3.1.weight"
    assert gradient in str(caught.value) or (not clip and "layer 2, operation sep_conv_3x3" in str(caught.value))
    if clip:  # in time
        assert all(p.isfinite().all() for p in trainer.state.network.parameters())


def test_a_gradient_of_the_loss_that_is_nan_is_nobodys():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert nonfinite_gradient(network.named_parameters()) is None
    (network(torch.ones(1, 2)).sum() * math.nan).backward()
    assert nonfinite_gradient(network.named_parameters()) == "the gradients of all 4 parameters"
    for p in network[0].parameters():
        p.grad.zero_()
    assert nonfinite_gradient(network.named_parameters()) == "the gradient of 1.bias"


def test_the_command_ends_with_status_2(tmp_path, monkeypatch, capsys):
    built = Trainer.__init__

    def poisoned(self, *arguments):
        built(self, *arguments)
        self.observers.append(at(1, 1, poison_operation))

    monkeypatch.setattr(Trainer, "__init__", poisoned)
    options = [f"--{key}={value}" for key, value in TINY.items() if key != "candidates"]
    run = tmp_path / "run"
    status = train_module.main([*options, f"--candidates=[{','.join(FEW)}]", "--out", str(run)])
    assert status == 2
    error = capsys.readouterr().err
    assert "layer 2, operation sep_conv_3x3" in error
    assert f"The last good checkpoint is kept in {run / 'checkpoints'}" in error
