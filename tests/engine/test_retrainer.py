"""Training from scratch: options that do what they say, widths, resuming to the same bits, refusals."""

import copy
import dataclasses
import signal

import pytest
import torch

from asose_fast.data import load_data
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.space import NetworkSpec
from asose_fast.space.auxiliary import Auxiliary
from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError
from tests.helpers import CPU, FEW, OF_BLOCKS, OnStep, make_config, make_network

TINY = {"limit_train": 120, "limit_test": 40, "batch_size": 20, "epochs": 3, "learning_rate": 0.1}
EVERYTHING = {"cutout": 3, "drop_path": 0.5, "auxiliary": 0.4, "label_smoothing": 0.1}


def make_spec(path=(3, 2, 3), classes=10):
    config = make_config(depth=len(path), channels=4)
    spec = NetworkSpec.chain(config, 1, classes)
    blocks = [dataclasses.replace(block, candidates=(FEW[k],)) for block, k in zip(spec.blocks, path, strict=True)]
    return dataclasses.replace(spec, blocks=tuple(blocks))


def make_retrainer(spec=None, folder=None, observers=(), **changes):
    config = RetrainConfig(**{**TINY, **changes})
    data = load_data(config, config.batch_size, config.seed, CPU)
    return Retrainer(TrainingState(config, spec or make_spec(), data, CPU), folder, observers)


class EpochEnds:
    """An observer that calls `action(state)` at the end of every epoch."""

    def __init__(self, action):
        self.on_epoch_end = lambda state, record: action(state)


def test_it_learns_and_by_default_on_all_images_but_the_test_ones():
    retrainer = make_retrainer(epochs=12, limit_train=600)
    assert len(retrainer.state.images) == 600
    retrainer.run()
    assert retrainer.state.history[-1]["train_accuracy"] > 0.6
    assert retrainer.state.history[-1]["learning_rate"] < 0.01
    assert "valid_accuracy" not in retrainer.state.history[-1]
    assert retrainer.state.test_accuracy() > 0.5


def test_the_validation_images_can_be_kept_out():
    retrainer = make_retrainer(keep_validation=True, epochs=1)
    assert len(retrainer.state.images) == 90
    retrainer.run()
    assert 0 <= retrainer.state.history[0]["valid_accuracy"] <= 1


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_training_that_goes_on_ends_with_the_same_bits(tmp_path, changes):
    states = []
    watch = EpochEnds(lambda state: states.append(copy.deepcopy(state.state_dict())))
    whole = make_retrainer(folder=tmp_path, observers=[watch], **changes)
    whole.run()
    assert [path.name for path in sorted(tmp_path.glob("checkpoints/epoch*.pt"))] == ["epoch-0003-step-000000.pt"]
    again = make_retrainer(**changes)
    torch.manual_seed(99)
    again.state.load_state_dict(states[0])
    again.run()
    for (name, ours), theirs in zip(
        whole.state.trained.state_dict().items(), again.state.trained.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert [r["train_loss"] for r in whole.state.history] == [r["train_loss"] for r in again.state.history]


def test_a_training_that_is_stopped_within_an_epoch_ends_with_the_same_bits(tmp_path):
    def stop(state):
        if (state.progress.epoch, state.progress.step) == (1, 2):
            state.stop(signal.SIGTERM)

    whole = make_retrainer(**EVERYTHING)
    whole.run()
    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM in phase retrain, epoch 2 of 3, step 2"):
        make_retrainer(folder=tmp_path, observers=[OnStep(stop)], **EVERYTHING).run()
    again = make_retrainer(**EVERYTHING)
    torch.manual_seed(99)
    again.state.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "last.pt"))
    again.run()
    ours, theirs = whole.state.trained.state_dict(), again.state.trained.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [r["train_loss"] for r in whole.state.history] == [r["train_loss"] for r in again.state.history]


def test_a_checkpoint_without_a_position_is_of_the_end_of_an_epoch():
    """An older release wrote such ones."""
    states = []
    whole = make_retrainer(observers=[EpochEnds(lambda state: states.append(copy.deepcopy(state.state_dict())))])
    whole.run()
    older = {name: value for name, value in states[0].items() if name not in ("progress", "weight_meter")}
    again = make_retrainer()
    again.state.load_state_dict(older)
    again.run()
    assert [r["train_loss"] for r in whole.state.history] == [r["train_loss"] for r in again.state.history]


@pytest.mark.parametrize("option", EVERYTHING)
def test_every_option_changes_the_training(option):
    plain, changed = make_retrainer(epochs=2), make_retrainer(epochs=2, **{option: EVERYTHING[option]})
    plain.run()
    changed.run()
    assert plain.state.history[1]["train_loss"] != changed.state.history[1]["train_loss"]


def test_drop_path_rises_and_takes_the_shortcut_of_whole_images():
    retrainer = make_retrainer(drop_path=0.4, epochs=3)
    seen = []
    block = retrainer.state.network.evolvable_blocks()[0]
    block.register_forward_hook(lambda *_: seen.append(block.drop_path))
    retrainer.run()
    assert sorted(set(seen)) == pytest.approx([0.0, 0.2, 0.4])

    network = make_network(FEW, depth=1).derive([3])
    block = network.evolvable_blocks()[0]
    block.drop_path = 0.5
    x = torch.randn(64, 4, 8, 8)
    with torch.no_grad():
        y = block(x)
        kept = torch.tensor([not torch.equal(a, b) for a, b in zip(x, y, strict=True)])
        assert 10 < kept.sum() < 54
        block.drop_path = 0.0
        whole = block(x)
    torch.testing.assert_close(y[kept] - x[kept], 2 * (whole - x)[kept], rtol=1e-4, atol=1e-5)
    block.drop_path = 0.5
    assert torch.equal(block.eval()(x), block.eval()(x))


@pytest.mark.parametrize("space", OF_BLOCKS)
def test_the_auxiliary_classifier_sees_two_thirds_of_the_network(space):
    network = make_network(FEW, depth=6, space=space).derive([3] * 6)
    auxiliary = Auxiliary(network)
    with pytest.raises(RuntimeError, match="has not run in training mode"):
        auxiliary()
    x = torch.randn(4, 3, 8, 8)
    network(x)
    scores = auxiliary()
    assert scores.shape == (4, 5)
    scores.sum().backward()
    got = [block.gain.grad is not None for block in network.evolvable_blocks()]
    assert got == [True] * 4 + [False] * 2
    assert not any("auxiliary" in name for name in network.state_dict())


def test_a_last_batch_of_one_image_trains_without_the_auxiliary_classifier():
    retrainer = make_retrainer(auxiliary=0.4, batch_size=17, epochs=1)
    assert len(retrainer.state.images) % 17 == 1
    retrainer.run()
    assert len(retrainer.state.history) == 1


def test_widths_follow_the_stem():
    spec = make_spec()
    wide = spec.scaled(10)
    assert (spec.widths, wide.widths) == ((4, 8), (10, 20))
    assert [b.candidates for b in wide.blocks] == [b.candidates for b in spec.blocks]
    assert spec.scaled(None) is spec
    retrainer = make_retrainer(channels=6, epochs=1)
    assert retrainer.state.network.stem[0].out_channels == 6


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no choice left"):
        make_retrainer(NetworkSpec.chain(make_config(), 1, 10))
    with pytest.raises(ValueError, match="1 channels and 7 classes, the data have 1 and 10"):
        make_retrainer(make_spec(classes=7))
    state = make_retrainer().state.state_dict()
    with pytest.raises(CheckpointError, match="begun with other settings"):
        make_retrainer(learning_rate=0.2).state.load_state_dict(state)
    with pytest.raises(CheckpointError, match="begun with another architecture"):
        make_retrainer(make_spec((1, 1, 1))).state.load_state_dict(state)
    for bad in ({"drop_path": 1.0}, {"epochs": 0}, {"learning_rate": float("nan")}, {"cutout": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RetrainConfig(**bad)


def test_a_loss_that_is_no_number_ends_the_training():
    retrainer = make_retrainer(learning_rate=1e20, gradient_clip=0.0)
    with pytest.raises(ValueError, match=r"the loss is .* lower learning_rate"):
        retrainer.run()
