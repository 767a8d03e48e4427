"""Distillation: the loss, who may teach, what is checked before the first epoch, and going on with the same teacher."""

import dataclasses
import json
import shutil
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast import Config, search
from asose_fast.compare import main as compare
from asose_fast.data import load_data
from asose_fast.derive import main as derive
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.recipe.teacher import Distillation, Taught, Teacher, distillation
from asose_fast.engine.retrainer import RetrainConfig, TrainingState
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.steps import classification
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.retrain import main as retrain
from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.store.derived import load
from asose_fast.train import main as train
from tests.engine.test_retrainer import make_retrainer, make_spec
from tests.helpers import CPU, OnStep, make_config, make_trainer, options, refused
from tests.library.networks import Choices, batches, small

SHORT = {"warmup_epochs": 1, "search_epochs": 1, "growth_epochs": 1, "optimize_epochs": 2}
FILE = """
import torch
CLASSES, MEAN, STD, IMAGE_SIZE = {classes}, {mean}, {std}, {size}

def load():
    torch.manual_seed({seed})
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, {scores}))
"""
DIGITS = [str(digit) for digit in range(10)]


def write(path, classes=DIGITS, mean=(0.0,), std=(1.0,), size=8, scores=10, seed=0):
    text = FILE.format(classes=list(classes), mean=mean, std=std, size=size, scores=scores, seed=seed)
    path.write_text(text)
    return path


@pytest.fixture
def file(tmp_path):
    """A teacher in a Python file of a user's own, on values from 0 to 1."""
    return write(tmp_path / "teacher.py")


@pytest.fixture(scope="module")
def images():
    config = make_config()
    return load_data(config, config.batch_size, config.seed, CPU)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_the_loss_is_that_of_the_paper():
    torch.manual_seed(0)
    s, t, y = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    distilled = Distillation(Teacher(nn.Identity(), CPU), 0.3, 2.0)
    result = distilled.drawn(classification(s, y), s, distilled.taught(t, y))
    p, q = (t.double() / 2).softmax(1), (s.double() / 2).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(result.loss.double(), 0.7 * F.cross_entropy(s.double(), y) + 0.3 * 4 * divergence)
    assert int(result.correct) == int((s.argmax(1) == y).sum())
    alone = Distillation(Teacher(nn.Identity(), CPU), 1.0, 2.0)
    assert float(alone.drawn(classification(t, y), t, Taught(y, t)).loss) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"the teacher gives scores \(5, 4\), the network \(5, 3\)"):
        distilled.drawn(classification(s[:, :3], y % 3), s[:, :3], distilled.taught(t, y))


def test_the_teacher_is_a_copy_in_evaluation_mode_and_has_no_gradient():
    given = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    teacher, x = Teacher(given, CPU), torch.randn(6, 4)
    before = teacher(x)
    assert not before.requires_grad
    given[0].weight.detach().zero_()
    assert given.training
    assert torch.equal(teacher(x), before)
    assert Teacher(nn.BatchNorm1d(4).bfloat16(), CPU).digest != Teacher(nn.BatchNorm1d(4), CPU).digest
    assert Teacher(nn.BatchNorm1d(4), CPU).digest == Teacher(nn.BatchNorm1d(4).train(), CPU).digest


def test_a_teacher_of_another_normalisation_sees_what_it_was_trained_on(images, file):
    config = dataclasses.replace(make_config(), teacher=str(file))
    x, _ = next(images.valid.batches(0))
    mean, std = torch.tensor(images.mean), torch.tensor(images.std)
    expected = linear()(x * std + mean)
    torch.testing.assert_close(distillation(config, images, CPU).teacher(x), expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused_before_the_first_epoch(tmp_path, file, capsys):
    assert "there is no" in refused(capsys, train, *options(teacher=tmp_path / "no"), f"--out={tmp_path / 'run'}")
    cases = {
        "the teacher's alone: ten; the images' alone: 9": {"classes": [*DIGITS[:9], "ten"]},
        "they are in another order": {"classes": DIGITS[::-1]},
        "takes images of 16x16 pixels, and these have 8x8": {"size": 16},
        "takes images of 3 channels, and these have 1": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
        "gives scores (2, 7) for two images, and must give (2, 10)": {"scores": 7},
    }
    for message, changes in cases.items():
        said = refused(capsys, train, *options(teacher=write(file, **changes)), f"--out={tmp_path / 'run'}")
        assert f"the teacher {file}" in said
        assert message in said
        assert not (tmp_path / "run" / "checkpoints").exists()
    file.write_text("1 / 0")
    assert "division by zero" in refused(capsys, train, *options(teacher=file), f"--out={tmp_path / 'run'}")
    with pytest.raises(ValueError, match="given twice"):
        distillation(RetrainConfig(teacher="x"), None, CPU, linear())


def test_the_teacher_changes_optimize_and_nothing_before(tmp_path, file):
    losses = []
    for name, changes in (("plain", {}), ("taught", {"teacher": str(file)})):
        trainer = make_trainer(tmp_path / name, **SHORT, **changes)
        trainer.run()
        losses.append([record["train_loss"] for record in trainer.state.history])
        saved = checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")
        assert ("teacher" in saved) == bool(changes)
        assert not any("64" in str(value.shape) for value in saved["network"].values())
    assert losses[0][:3] == losses[1][:3]
    assert all(one != other for one, other in zip(losses[0][3:], losses[1][3:], strict=True))


@pytest.mark.parametrize("recipe", [{}, {"mixup": 0.4, "label_smoothing": 0.1, "finals_epochs": 2, "finals_paths": 2}])
def test_a_search_stopped_in_optimize_ends_with_the_same_bits(tmp_path, file, recipe):
    settings = {**SHORT, "teacher": str(file), **recipe}
    last = 3 + recipe.get("finals_epochs", 0)

    def stop(state):
        if (state.progress.epoch, state.progress.step) == (last, 2):
            state.stop(signal.SIGTERM)

    whole = make_trainer(tmp_path / "whole", **settings)
    whole.run()
    with pytest.raises(InterruptedRunError):
        make_trainer(tmp_path / "cut", [OnStep(stop)], **settings).run()
    again = make_trainer(tmp_path / "cut", **settings)
    again.state.load_state_dict(checkpoint.load(tmp_path / "cut" / "checkpoints" / "last.pt"))
    again.run()
    assert_equal(whole.state.network.state_dict(), again.state.network.state_dict())


def test_a_run_goes_on_with_the_same_teacher_wherever_it_lies(tmp_path, file, capsys):
    run, moved = tmp_path / "run", tmp_path / "elsewhere.py"
    command = options(**SHORT, teacher=file)
    assert train([*command, f"--out={run}"]) == 0
    words = ["--resume", str(run), "--optimize_epochs=3"]
    shutil.move(file, moved)
    said = refused(capsys, train, *words)
    assert f"there is no {file}" in said
    assert f"If the teacher {file} has moved, give --teacher PATH, where it lies now" in said
    write(tmp_path / "other.py", seed=1)
    other = refused(capsys, train, *words, f"--teacher={tmp_path / 'other.py'}")
    assert "the teacher is not that which the run was begun with" in other
    assert train([*words, f"--teacher={moved}"]) == 0
    assert train(["--resume", str(run), "--optimize_epochs=4"]) == 0  # it remembers the place


def test_a_comparison_needs_the_teacher_and_a_derivation_does_not(tmp_path, file, capsys):
    run, moved = tmp_path / "run", tmp_path / "elsewhere.py"
    assert train([*options(**SHORT, teacher=file), f"--out={run}"]) == 0
    shutil.move(file, moved)
    assert derive([str(run), f"--out={tmp_path / 'derived'}"]) == 0
    words = [str(run), "--random=2", "--epochs=1"]
    assert f"If the teacher {file} has moved, give --teacher PATH" in refused(capsys, compare, *words)
    assert compare([*words, f"--teacher={moved}"]) == 0
    settings = json.loads((run / "compare" / "compare.json").read_text())["settings"]
    assert (settings["teacher"], settings["teacher_weight"]) == (str(moved), 0.5)


def test_a_derived_network_teaches_the_next_one(tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    assert train([*options(**SHORT), f"--out={run}"]) == 0
    words = [str(run), "--epochs=2", f"--out={again}", "--teacher_weight=0.9"]
    assert retrain([*words, f"--teacher={run}"]) == 0
    digest = Teacher(load(run), CPU).digest
    assert checkpoint.load(again / "checkpoints" / "last.pt")["teacher"] == digest
    assert "begun with another teacher" in refused(capsys, retrain, *words, f"--teacher={again}")
    assert "begun with other settings" in refused(capsys, retrain, *words)
    copy = shutil.copytree(run, tmp_path / "copy")
    assert retrain([*words, f"--teacher={copy}"]) == 0


def test_a_module_of_the_users_own_teaches_in_python(tmp_path, images):
    config = RetrainConfig(limit_train=120, limit_test=40, batch_size=20, epochs=2)
    teacher, plain = linear(), make_retrainer().state
    state = TrainingState(config, make_spec(), images, CPU, teacher)
    assert state.recipe.distillation.teacher.digest == Teacher(teacher, CPU).digest
    assert not plain.recipe.identity
    with pytest.raises(CheckpointError, match="begun with another teacher"):
        TrainingState(config, make_spec(), images, CPU, linear(1)).load_state_dict(state.state_dict())

    task = ImageTask(make_config(**SHORT), images, CPU, teacher)
    Trainer(SearchState(task)).run()
    assert task.identity == {"teacher": state.recipe.distillation.teacher.digest}
    with pytest.raises(ValueError, match=r"the teacher gives scores \(2, 7\)"):
        Trainer(SearchState(ImageTask(make_config(), images, CPU, nn.Sequential(nn.Flatten(), nn.Linear(64, 7)))))


class Sure(nn.Module):
    """Is certain of class 1, whatever it sees."""

    def forward(self, x):
        return torch.tensor([0.0, 50.0]).expand(len(x), 2)


def test_a_search_in_a_users_network_learns_from_a_teacher(tmp_path):
    config = small(teacher_weight=1.0, teacher_temperature=1.0, learning_rate=0.1)
    train_batches, valid = batches(), batches(1)
    found = search(Choices(), (train_batches, valid), config, teacher=Sure(), folder=tmp_path / "run")
    plain = search(Choices(), (train_batches, valid), small(learning_rate=0.1))
    x = torch.cat([x for x, _ in valid])
    shares = [float((result.network(x).argmax(1) == 1).float().mean()) for result in (found, plain)]
    assert shares[0] > max(0.9, shares[1])
    with pytest.raises(CheckpointError, match="other settings: the teacher"):
        search(Choices(), (train_batches, valid), config, folder=tmp_path / "run")
    with pytest.raises(TypeError, match=r"teacher must be a torch\.nn\.Module, got function"):
        search(Choices(), (train_batches, valid), config, teacher=lambda x: x)
    with pytest.raises(ValueError, match="teacher has no effect"):
        search(Choices(), (train_batches, valid), Config(teacher="run"))
