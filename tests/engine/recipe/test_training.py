"""Optimize and a training from scratch under a recipe: what changes, what is kept, and resuming to the same bits."""

import copy
import json
import signal

import pytest
import torch
from rich.console import Console

from asose_fast.data import load_data
from asose_fast.data.cutout import cut_out
from asose_fast.data.seeds import generator
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.recipe import auto_augment
from asose_fast.engine.recipe.auto_augment import AutoAugment
from asose_fast.engine.result import load, write_result
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.observe.console import ConsoleObserver
from asose_fast.observe.metrics import MetricsObserver
from asose_fast.report import page
from asose_fast.report.run import read
from asose_fast.store import checkpoint
from asose_fast.train import main
from tests.engine.test_retrainer import make_retrainer
from tests.engine.test_trainer import without_timings
from tests.helpers import CPU, OnStep, make_config, make_trainer, options, refused
from tests.processes import Team, opened

SHARED = {
    "warmup_share": 0.3,
    "nesterov": True,
    "decay_norms": False,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "auto_augment": "rand",
    "cutout": 3,
    "mixup": 0.4,
    "cutmix": 1.0,
}
ADAMW = {"optimizer": "adamw"}
OWN = {
    "optimize_learning_rate": 0.1,
    "optimize_weight_decay": 0.01,
    "optimize_from": "scratch",
    "optimize_on": "all",
}
PHASES = {"search_epochs": 1, "optimize_epochs": 3}


def shifted(image):
    return image.roll(int(torch.randint(0, 3, ())), 1)


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    """A policy that shifts at random in the place of torchvision's."""
    made = classmethod(lambda cls, policy, mean, std: cls(shifted, mean, std))
    monkeypatch.setattr(AutoAugment, "make", made)


def tensors(network):
    return copy.deepcopy(network.state_dict())


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("plain"), **PHASES)
    trainer.run()
    return trainer


@pytest.mark.parametrize("option", SHARED | OWN | ADAMW)
def test_every_option_changes_optimize_and_nothing_before(tmp_path, plain, option):
    changed = make_trainer(tmp_path, **PHASES, **{option: (SHARED | OWN | ADAMW)[option]})
    changed.run()
    searched = [without_timings(trainer.state.history)[:3] for trainer in (plain, changed)]
    assert searched[0] == searched[1]
    ours, theirs = (trainer.state.best_network().state_dict() for trainer in (plain, changed))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("option", SHARED | ADAMW)
def test_every_option_changes_a_training_from_scratch(option):
    plain, changed = make_retrainer(epochs=2), make_retrainer(epochs=2, **{option: (SHARED | ADAMW)[option]})
    plain.run()
    changed.run()
    ours, theirs = plain.state.result.state_dict(), changed.state.result.state_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("more", [{}, {"precision": "bf16"}, ADAMW, {**ADAMW, "optimize_from": "supernet"}], ids=str)
@pytest.mark.parametrize(("epoch", "step"), [(3, 2), (4, 1), (5, 6)])
def test_a_search_stopped_in_optimize_ends_with_the_same_bits(tmp_path, more, epoch, step):
    settings = {**PHASES, **SHARED, **OWN, **more}

    def stop(state):
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            state.stop(signal.SIGTERM)

    whole = make_trainer(tmp_path / "whole", **settings)
    whole.run()
    with pytest.raises(InterruptedRunError, match=f"phase optimize, epoch {epoch + 1} of 6, step {step}"):
        make_trainer(tmp_path / "cut", [OnStep(stop)], **settings).run()
    torch.manual_seed(99)
    again = make_trainer(tmp_path / "cut", **settings)
    again.state.load_state_dict(checkpoint.load(tmp_path / "cut" / "checkpoints" / "last.pt"))
    again.run()
    assert_equal(tensors(whole.state.network), tensors(again.state.network))
    assert_equal(tensors(whole.state.average.network), tensors(again.state.average.network))
    assert_equal(whole.state.best_network().state_dict(), again.state.best_network().state_dict())
    assert without_timings(whole.state.history) == without_timings(again.state.history)


@pytest.mark.parametrize("more", [{}, ADAMW], ids=str)
def test_a_training_from_scratch_stopped_within_an_epoch_ends_with_the_same_bits(tmp_path, more):
    def stop(state):
        if (state.progress.epoch, state.progress.step) == (1, 2):
            state.stop(signal.SIGTERM)

    settings = {**SHARED, "auxiliary": 0.4, "drop_path": 0.3, **more}
    whole = make_retrainer(**settings)
    whole.run()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InterruptedRunError):
        make_retrainer(folder=tmp_path, observers=[OnStep(stop)], **settings).run()
    again = make_retrainer(**settings)
    torch.manual_seed(99)
    again.state.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "last.pt"))
    again.run()
    assert_equal(tensors(whole.state.trained), tensors(again.state.trained))
    assert_equal(tensors(whole.state.result), tensors(again.state.result))


def test_a_training_from_before_the_recipe_goes_on():
    whole, states = make_retrainer(cutout=2), []
    whole.observers.append(OnStep(lambda state: states.append(copy.deepcopy(state.state_dict()))))
    whole.run()
    older = states[3]
    older["retrain"] = {
        name: value for name, value in older["retrain"].items() if name not in SHARED or name == "cutout"
    } | {"label_smoothing": 0.0}
    assert "ema_decay" not in older["retrain"]
    again = make_retrainer(cutout=2)
    again.state.load_state_dict(older)
    again.run()
    assert_equal(tensors(whole.state.trained), tensors(again.state.trained))


class Averaging:
    """Averages the weights of optimize after each step, in float64."""

    def __init__(self):
        self.values, self.steps = None, 0

    def on_epoch_start(self, state, phase):
        if phase.derives and self.values is None:
            self.values = {name: p.detach().double() for name, p in state.network.named_parameters()}

    def on_step(self, state):
        if self.values is not None:
            keep = min(0.9, (1 + self.steps) / (10 + self.steps))
            for name, p in state.network.named_parameters():
                self.values[name] = keep * self.values[name] + (1 - keep) * p.detach().double()
            self.steps += 1

    def on_epoch_end(self, state, record): ...


def test_the_average_is_measured_kept_and_written(tmp_path):
    average = Averaging()
    kept = {**PHASES, "candidates": ("max_pool_3x3", "sep_conv_3x3")}
    trainer = make_trainer(tmp_path, [average], **kept, ema_decay=0.9, optimize_on="all")
    trainer.run()
    write_result(trainer.state, trainer.state.data, tmp_path)
    assert average.steps == 18  # 6 batches of 120 images
    written, network = dict(load(tmp_path).named_parameters()), dict(trainer.state.network.named_parameters())
    for name, values in average.values.items():
        torch.testing.assert_close(written[name].double(), values, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(written[name], network[name]) for name in written)
    assert trainer.state.derived() is trainer.state.average.network


def test_without_all_images_the_best_epoch_is_that_of_the_average(tmp_path):
    found = []

    def keep(state):
        found.append((state.history[-1]["valid_accuracy"], tensors(state.derived())) if state.average else None)

    observer = OnStep(lambda state: None)
    observer.on_epoch_end = lambda state, record: keep(state)
    trainer = make_trainer(tmp_path, [observer], **{**PHASES, "optimize_epochs": 4}, ema_decay=0.8)
    trainer.run()
    best = max((item for item in found if item), key=lambda item: item[0])
    assert trainer.state.progress.best_accuracy == best[0]
    assert_equal(tensors(trainer.state.best_network()), best[1])


def test_the_average_of_a_training_from_scratch_is_measured_and_kept():
    average = Averaging()
    retrainer = make_retrainer(observers=[average], ema_decay=0.9)
    retrainer.run()
    assert average.steps == 18
    for name, p in retrainer.state.result.named_parameters():
        torch.testing.assert_close(p.double(), average.values[name], rtol=1e-4, atol=1e-6)


def test_the_average_is_what_a_training_from_scratch_validates_and_tests():
    measured = []
    observer = OnStep(lambda state: None)
    observer.on_epoch_end = lambda state, record: measured.append(
        [record["valid_accuracy"]]
        + [accuracy(n, state.data.valid.batches(0, augment=False)) for n in (state.average.network, state.network)]
    )
    retrainer = make_retrainer(observers=[observer], keep_validation=True, ema_decay=0.99, limit_train=400, epochs=5)
    retrainer.run()
    tested = retrainer.state.test_accuracy()
    for p in retrainer.state.network.parameters():
        p.detach().zero_()  # would call every image the same
    assert retrainer.state.test_accuracy() == tested
    assert accuracy(retrainer.state.network, retrainer.state.data.test.batches(0)) != tested
    assert [valid for valid, _, _ in measured] == [average for _, average, _ in measured]
    assert any(average != network for _, average, network in measured)


def test_optimize_on_all_images_but_the_test_ones(tmp_path):
    folder, seen = tmp_path / "run", []

    class Record(OnStep):
        def on_epoch_start(self, state, phase):
            seen.append((phase.name, len(state.data.train), state.validates))

    console = Console(width=200, record=True)
    observers = [Record(lambda state: None), ConsoleObserver(console)]
    trainer = make_trainer(folder, observers, **PHASES, optimize_on="all")
    trainer.observers.append(MetricsObserver(folder / "metrics.jsonl"))
    trainer.run()
    assert [images for phase, images, _ in seen if phase != "optimize"] == [90, 90, 90]
    assert [(images, held_out) for phase, images, held_out in seen if phase == "optimize"] == [(120, False)] * 3
    history = trainer.state.history
    assert [record["valid_accuracy"] is None for record in history] == [False] * 3 + [True] * 3
    best = trainer.state.best_network()
    assert_equal(tensors(best), tensors(trainer.state.network))  # of the last epoch
    trainer.state.calibrate(best)
    assert_equal(tensors(best), tensors(trainer.state.network))  # whose norms were recalibrated

    summary = write_result(trainer.state, trainer.state.data, folder)
    assert (summary["valid_accuracy"], summary["optimize_on"]) == (None, "all")
    json.dumps(json.loads((folder / "summary.json").read_text()), allow_nan=False)
    said = console.export_text()
    assert "optimize: 3 epochs, on the validation images too: no validation accuracy" in said
    assert said.count("  none  ") == 3
    (folder / "config.yaml").write_text("optimize_on: all\n")
    run = read(folder)
    assert ("validation accuracy", "none: trained on these images too") in page.facts(run)
    assert page.render(run)


def test_by_default_the_validation_images_stay_apart(tmp_path):
    trainer = make_trainer(tmp_path, **PHASES)
    trainer.run()
    assert len(trainer.state.data.train) == 90
    summary = write_result(trainer.state, trainer.state.data, tmp_path)
    assert summary["valid_accuracy"] == trainer.state.progress.best_accuracy
    assert summary["optimize_on"] == "train"
    assert trainer.state.average is None
    assert "average" not in trainer.state.state_dict()


def test_the_command_says_that_there_is_no_validation_accuracy(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*options(optimize_on="all", ema_decay=0.9), f"--out={folder}"]) == 0
    said = capsys.readouterr().out
    assert "there is no validation accuracy: the network was trained on these images too, to the last epoch" in said
    assert json.loads((folder / "summary.json").read_text())["valid_accuracy"] is None


def test_the_batches_of_the_recipe(tmp_path):
    """Cut out as in earlier releases, and the same for the same place of a training alone."""
    config = make_config(cutout=3)
    recipe = ImageTask(config, load_data(config, 20, 0, CPU), CPU).recipe
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    images, labels = recipe.batch(x, y, 4, 2)
    assert torch.equal(images, cut_out(x, 3, generator(0, "cutout", 4, 2)))
    assert labels is y
    assert all(not torch.equal(recipe.batch(x, y, *place)[0], images) for place in ((4, 3), (5, 2), (4, 2, 1)))

    config = make_config(mixup=0.3)
    recipe = ImageTask(config, load_data(config, 20, 0, CPU), CPU).recipe
    images, targets = recipe.batch(x, y, 0, 0)
    assert targets.shape == (6, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    nothing = recipe.batch(x[:0], y[:0], 0, 0)
    assert [tuple(part.shape) for part in nothing] == [(0, 1, 8, 8), (0,)]  # labels as a step without images has them

    plain = ImageTask(make_config(), load_data(config, 20, 0, CPU), CPU).recipe
    assert plain.batch(x, y, 0, 0) == (x, y)


def test_a_missing_torchvision_ends_the_command_before_it_begins(tmp_path, capsys, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'torchvision'")

    monkeypatch.undo()
    monkeypatch.setattr(auto_augment, "import_torchvision", missing)
    said = refused(capsys, main, *options(auto_augment="trivial"), f"--out={tmp_path / 'run'}")
    assert "auto_augment: trivial needs torchvision" in said


def trainer_of(processes, folder, settings, observers=()):
    config = make_config(**settings)
    data = load_data(config, config.batch_size, config.seed, CPU)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Trainer(SearchState(ImageTask(config, data, CPU), opened(processes)), folder, observers)


def stopped(processes, folder, settings):
    """The average of one of several processes where a checkpoint within an epoch is written."""

    def stop(state):
        if (state.progress.epoch, state.progress.step) == (4, 2):
            state.stop(signal.SIGTERM)

    trainer = trainer_of(processes, folder, settings, [OnStep(stop)])
    with pytest.raises(InterruptedRunError):
        trainer.run()
    return tensors(trainer.state.average.network)


def optimized(processes, folder, settings):
    """The average, the history and the summary of one of several processes."""
    trainer = trainer_of(processes, folder, settings)
    trainer.run()
    summary = write_result(trainer.state, trainer.state.data, folder)
    return tensors(trainer.state.average.network), without_timings(trainer.state.history), summary


@pytest.fixture(scope="module")
def team():
    team = Team(2)
    yield team
    team.close()


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("on", ["train", "all"])
def test_several_processes_keep_the_same_average(tmp_path, team, on, sync):
    shared = {name: value for name, value in SHARED.items() if name != "auto_augment"}
    settings = {**PHASES, **shared, **OWN, "class_weights": "balanced", "optimize_on": on}
    settings |= {"sync_batch_norm": sync, "batch_size": 17}
    (ours, history, summary), (theirs, other_history, other_summary) = team.run(2, optimized, tmp_path, settings)
    assert_equal(ours, theirs)
    assert history == other_history
    assert summary == other_summary


def test_a_checkpoint_has_the_average_of_every_process(tmp_path, team):
    ours, theirs = team.run(2, stopped, tmp_path, {**PHASES, "ema_decay": 0.9})
    assert_equal(ours, theirs)
    assert_equal(ours, checkpoint.load(tmp_path / "checkpoints" / "last.pt")["average"]["network"])


def test_a_network_from_scratch_shares_nothing_with_the_supernet(tmp_path):
    state = make_trainer(tmp_path, optimize_from="scratch").state
    supernet = {id(p) for p in state.network.parameters()}
    path, before = state.best_path(), torch.get_rng_state()
    spec = state.network.derive(path).spec
    state.derive(path)
    assert state.network.spec == spec
    assert not supernet & {id(p) for p in state.network.parameters()}
    assert not state.weight_optimizer.state
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    other = make_trainer(tmp_path / "other", optimize_from="scratch").state
    other.derive(path)
    assert_equal(tensors(state.network), tensors(other.network))  # whatever was drawn before
