"""The trainer: cadence of the two kinds of step, batches, records, and a state that continues bit for bit."""

import itertools
import signal

import pytest
import torch

from asose_fast.engine.cadence import Cadence
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.measure import measure
from asose_fast.engine.step import graphs
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.store import checkpoint
from tests.helpers import OnStep, make_config, make_trainer

TIMINGS = ("seconds", "images_per_second", "health")
GROWING = {"growth_patience": 1, "growth_threshold": 99.0, "growth_epochs": 3, "optimize_epochs": 2}


def without_timings(history):
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in history]


@pytest.fixture
def steps(monkeypatch):
    """Lists (kind, images, path or sampled index) of every step."""
    seen = []

    def weights(network, optimizer, x, y, path, **keywords):
        seen.append(("weights", x, path))
        return weight_step(network, optimizer, x, y, path, **keywords)

    def alpha(network, optimizer, x, y, draw, **keywords):
        seen.append(("alpha", x, draw.path))
        return alpha_step(network, optimizer, x, y, draw, **keywords)

    monkeypatch.setattr(graphs, "weight_step", weights)
    monkeypatch.setattr(graphs, "alpha_step", alpha)
    return seen


def test_every_fifth_batch_updates_alpha_across_epochs(tmp_path, steps):
    trainer = make_trainer(tmp_path, alpha_every=5, search_epochs=3)
    trainer.run()
    kinds = "".join(kind[0] for kind, _, _ in steps)
    # Epochs of 5 training batches: warmup, 3 of search, growth, optimize.
    assert kinds == "wwwww" + "wwwwa" * 5 + "wwwww"
    assert trainer.state.progress.alpha_steps == 5
    assert trainer.state.selector.temperature == pytest.approx(1.5 * 0.995**5)


def test_the_last_batch_is_smaller_and_counts_in_full(tmp_path, steps):
    trainer = make_trainer(tmp_path)
    trainer.run()
    assert [len(x) for _, x, _ in steps[:5]] == [20, 20, 20, 20, 10]
    assert {len(x) for kind, x, _ in steps if kind == "alpha"} == {20, 10}
    assert all(record["batch_size_errors"] == 0 for record in trainer.state.history)


def test_alpha_steps_go_through_the_validation_split_without_a_break_between_epochs(tmp_path, steps):
    trainer = make_trainer(tmp_path, augment=False, batch_size=10, alpha_every=4, search_epochs=4)
    trainer.run()
    seen = [x for kind, x, _ in steps if kind == "alpha"]
    count = trainer.state.data.valid.num_batches()
    assert count == 3
    assert len(seen) > 2 * count
    for number, x in enumerate(seen):
        epoch, start = divmod(number, count)
        expected = next(trainer.state.data.valid.batches(epoch, start=start, shuffle=True))[0]
        assert torch.equal(x, expected)


def test_phases_run_in_order_and_alpha_moves_only_in_search_and_growth(tmp_path):
    logits = []
    trainer = make_trainer(tmp_path)
    trainer.observers.append(OnStep(lambda t: logits.append((t.progress.phase, t.selector.logits().detach().clone()))))
    trainer.run()
    assert [r["phase"] for r in trainer.state.history] == ["warmup", "search", "search", "growth", "optimize"]
    assert [r["epoch"] for r in trainer.state.history] == [1, 2, 3, 4, 5]
    moved = {phase: False for phase, _ in logits}
    for (_, a), (phase, b) in itertools.pairwise(logits):
        moved[phase] |= not torch.equal(a, b)
    assert moved == {"warmup": False, "search": True, "growth": True, "optimize": False}


def test_the_health_record_sees_trimmed_batches(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, warmup_epochs=1)
    forward = trainer.state.network.forward
    monkeypatch.setattr(trainer.state.network, "forward", lambda x, *a, **k: forward(x, *a, **k)[:-1])
    phase = trainer.state.phases[0]
    trainer._enter(phase)
    with pytest.warns(RuntimeWarning, match="trimmed"):
        trainer._train_epoch(phase)
    record = measure(trainer.state, phase)
    assert record["batch_size_errors"] == 5
    assert record["health"][0] == {"name": "batch-size errors", "value": 5, "bound": "= 0", "ok": False}
    assert trainer.state.weight_meter.images == 85


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.manual_seed(123)
    torch.set_num_threads(1)
    trainer = make_trainer(tmp_path_factory.mktemp("undisturbed"), **GROWING)
    trainer.run()
    return trainer


def resumed(folder):
    torch.manual_seed(987654)
    trainer = make_trainer(folder, **GROWING)
    trainer.state.load_state_dict(checkpoint.load(folder / "checkpoints" / "last.pt"))
    trainer.run()
    return trainer


def assert_same_end(trainer, other):
    assert trainer.state.network.spec == other.state.network.spec
    for (name, a), b in zip(
        trainer.state.network.state_dict().items(), other.state.network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert torch.equal(trainer.state.selector.logits(), other.state.selector.logits())
    assert without_timings(trainer.state.history) == without_timings(other.state.history)
    best, other_best = trainer.state.best_network().state_dict(), other.state.best_network().state_dict()
    assert all(torch.equal(a, b) for a, b in zip(best.values(), other_best.values(), strict=True))


@pytest.mark.parametrize("epoch", range(8))
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(tmp_path, undisturbed, epoch, step):
    def stop(state):
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            state.stop(signal.SIGTERM)

    with pytest.raises(InterruptedRunError, match=rf"SIGTERM in phase \w+, epoch {epoch + 1} of 8, step {step}"):
        make_trainer(tmp_path, [OnStep(stop)], **GROWING).run()
    assert_same_end(resumed(tmp_path), undisturbed)


class EndOfEpoch:
    """Breaks off when epoch `number` (from 1) has been measured, before or after its checkpoint is written."""

    def __init__(self, number):
        self.number = number

    def on_epoch_start(self, state, phase):
        if state.progress.epoch == self.number:
            raise KeyboardInterrupt

    def on_step(self, state): ...

    def on_epoch_end(self, state, record): ...


@pytest.mark.parametrize(("epoch", "step", "last"), [(0, 3, 2), (2, 2, 0), (4, 5, 4), (6, 4, 2)])
def test_a_killed_run_goes_on_from_the_checkpoint_within_its_epoch(tmp_path, undisturbed, epoch, step, last):
    def kill(state):  # observers come before the checkpoint of a step
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            raise KeyboardInterrupt

    cadence = {"checkpoint_steps": 2, "checkpoint_seconds": None}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, [OnStep(kill)], **GROWING, **cadence).run()
    progress = checkpoint.load(tmp_path / "checkpoints" / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (epoch, last)
    assert len(list((tmp_path / "checkpoints").glob("epoch-*"))) <= 3
    assert_same_end(resumed(tmp_path), undisturbed)


def test_a_checkpoint_by_time_is_due_after_the_step_that_exceeds_it(monkeypatch):
    now = 100.0
    monkeypatch.setattr("asose_fast.engine.cadence.time.monotonic", lambda: now)
    cadence = Cadence(make_config(checkpoint_seconds=10.0))
    assert not cadence.due()
    now = 109.9
    assert not cadence.due()
    now = 110.0
    assert cadence.due()
    cadence.restart()
    assert not cadence.due()
    unlimited = Cadence(make_config(checkpoint_seconds=None))
    now = 1e9
    assert not unlimited.due()


@pytest.mark.parametrize("epochs", [1, 4, 5, 6])
def test_a_run_broken_off_between_epochs_ends_as_if_it_had_not_been(tmp_path, undisturbed, epochs):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, [EndOfEpoch(epochs)], **GROWING).run()
    assert_same_end(resumed(tmp_path), undisturbed)


def test_growth_during_the_run_that_is_resumed(undisturbed):
    """Guards the tests above: the network does grow in it."""
    assert [bool(r.get("growth")) for r in undisturbed.state.history] == [False] * 3 + [True] * 2 + [False] * 3


def test_best_checkpoint_at_the_end_is_a_derived_network(undisturbed):
    network = undisturbed.state.best_network()
    assert all(len(block.spec.candidates) == 1 for block in network.evolvable_blocks())
    records = [r["valid_accuracy"] for r in undisturbed.state.history if r["phase"] == "optimize"]
    assert undisturbed.state.progress.best_accuracy == max(records)
