"""A state is read, measured and derived from without its loop; a loop without a folder writes nothing."""

import pytest
import torch

from asose_fast.engine import resume
from asose_fast.engine.evaluate import recalibrate
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.space.build import of_images
from asose_fast.space.copying import deepcopy
from asose_fast.space.custom import CustomNetwork
from asose_fast.space.mixed import MixedOp
from asose_fast.store import checkpoint
from tests.helpers import CPU, make_config, make_trainer


def test_a_state_is_read_and_derived_from_without_its_loop(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.run()
    read = SearchState(ImageTask(make_config(), trainer.state.data, CPU))
    read.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "supernet.pt"))
    assert not read.deriving
    network = read.derived()
    assert network.operations == trainer.state.network.operations
    read.calibrate(network)
    assert 0 <= read.valid_accuracy(network) <= 1
    assert [r["epoch"] for r in read.history] == [1, 2, 3, 4]


def test_statistics_are_those_of_images_as_they_are_trained_on(tmp_path):
    state = make_trainer(tmp_path, candidates=("sep_conv_3x3",)).state
    found, augmented, plain = (deepcopy(state.network) for _ in range(3))
    state.calibrate(found)
    for network, augment in ((augmented, True), (plain, False)):
        recalibrate(network, state.data.train.batches(0, augment=augment), state.config.recalibration_batches)
    norms = [(name, value) for name, value in found.named_buffers() if name.endswith(("running_mean", "running_var"))]
    assert norms
    for name, value in norms:
        assert torch.equal(value, augmented.get_buffer(name)), name
        assert not torch.equal(value, plain.get_buffer(name)), name


def test_a_loop_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_atomically", lambda *_: pytest.fail("a file is written"))
    trainer = make_trainer(tmp_path)
    other = SearchState(ImageTask(make_config(), trainer.state.data, CPU))
    Trainer(other).run()
    assert other.best is not None


class Doubled(ImageTask):
    """Trains at twice the learning rate."""

    def set_learning_rate(self, optimizer, rate):
        super().set_learning_rate(optimizer, 2 * rate)


def test_a_task_of_the_users_own_changes_what_it_overrides(tmp_path):
    data = make_trainer(tmp_path).state.data
    rates = []
    for kind in (ImageTask, Doubled):
        state = SearchState(kind(make_config(), data, CPU))
        Trainer(state)._train_epoch(state.phases[0])
        rates.append(state.weight_optimizer.param_groups[0]["lr"])
    assert rates[1] == 2 * rates[0] > 0


def test_a_network_that_is_not_for_images_is_refused_where_one_is_needed():
    with pytest.raises(TypeError, match="needs a network for images, got CustomNetwork"):
        of_images(CustomNetwork(torch.nn.Sequential(MixedOp({"a": torch.nn.Identity()}))))


def test_a_state_of_another_task_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    values = SearchState(Doubled(make_config(), trainer.state.data, CPU)).state_dict()
    with pytest.raises(ValueError, match="its search is of the task Doubled, and this one of ImageTask"):
        trainer.state.load_state_dict(values)
    del values["task"]  # of an earlier release
    trainer.state.load_state_dict(values)


def test_a_search_that_begins_does_not_write_over_another(tmp_path):
    make_trainer(tmp_path).run()
    kept = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    for begin in (lambda trainer: trainer.run(), lambda trainer: trainer.save("last")):
        with pytest.raises(FileExistsError, match="holds a run: give a folder of its own, or go on with that run"):
            begin(make_trainer(tmp_path))
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == kept
    other = make_trainer(tmp_path)
    resume.read(str(tmp_path), print).restore(other.state, print)
    other.run()
    assert len(other.state.history) == other.state.epochs


def test_a_folder_may_be_a_string(tmp_path):
    Trainer(make_trainer(tmp_path).state, str(tmp_path / "here")).save("last")
    assert (tmp_path / "here" / "checkpoints" / "last.pt").exists()
