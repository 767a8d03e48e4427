"""Whole epochs on a GPU: nothing waits, and graphs change nothing. Skipped without one."""

import pytest
import torch

from asose_fast.data import load_data
from asose_fast.engine.alpha.estimators import ESTIMATORS
from asose_fast.engine.progress import Progress
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.space.network import NetworkSpec
from tests.helpers import FEW, make_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def deterministic_convolutions():
    before = torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def make_trainer(folder, **changes):
    config = make_config(limit_train=320, **changes)
    folder.mkdir(exist_ok=True)
    data = load_data(config, config.batch_size, config.seed, CUDA)
    return Trainer(SearchState(ImageTask(config, data, CUDA)), folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_step_waits_for_the_gpu(tmp_path, estimator, precision):
    trainer = make_trainer(tmp_path, estimator=estimator, precision=precision)
    for phase in trainer.state.phases[:3]:
        for watched in (False, True):
            trainer.state.progress.step = 0
            torch.cuda.set_sync_debug_mode("error" if watched else "default")
            try:
                trainer._train_epoch(phase)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def test_no_step_of_retraining_waits_for_the_gpu():
    config = RetrainConfig(limit_train=320, batch_size=20, cutout=4)
    data = load_data(config, config.batch_size, 0, CUDA)
    spec = NetworkSpec.chain(make_config(candidates=("sep_conv_3x3",), depth=2), data.channels, len(data.classes))
    retrainer = Retrainer(TrainingState(config, spec, data, CUDA))
    (phase,) = retrainer.state.phases
    retrainer._train_epoch(phase)
    retrainer.state.progress = Progress(epoch=1)
    x, y = next(retrainer.state.images.batches(1))
    torch.cuda.set_sync_debug_mode("error")
    try:
        retrainer._step(phase, x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("estimator", ["straight_through", "soft", "gdas"])
def test_a_run_is_the_same_with_graphs_and_without(tmp_path, estimator):
    changes = {"estimator": estimator, "candidates": FEW, "growth_patience": 1, "growth_threshold": 99.0}
    ends = []
    for graphs in ("off", "auto"):
        trainer = make_trainer(tmp_path / graphs, graphs=graphs, search_epochs=3, **changes)
        trainer.run()
        assert trainer.graphs.on == (graphs == "auto")
        ends.append(trainer.state)
    off, auto = ends
    assert torch.equal(off.selector.logits(), auto.selector.logits())
    for (name, a), b in zip(off.network.state_dict().items(), auto.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
