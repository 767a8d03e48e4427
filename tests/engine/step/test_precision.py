"""Steps in bfloat16: close to those in float32, with everything that lasts in float32."""

import copy
import signal

import pytest
import torch

from asose_fast.data import load_data
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.space.network import NetworkSpec
from asose_fast.store import checkpoint
from tests.helpers import CPU, OnStep, make_batch, make_config, make_network, make_selector, make_trainer

CANDIDATES = ("none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "conv_7x1_1x7")


def gradients(kind, precision):
    """Loss and gradients of a step."""
    torch.manual_seed(0)
    network = make_network(CANDIDATES, channels=8).to(memory_format=torch.channels_last)
    selector = make_selector(CANDIDATES)
    weights = weight_optimizer(make_config(learning_rate=0.0), network)
    x, y = make_batch(images=16, size=12)
    if kind == "alpha":
        sampled = selector.sample("search")
        draw = Draw(sampled.weights, sampled.index.tolist())
        result = alpha_step(network, alpha_optimizer(selector.alpha, 0.0), x, y, draw, precision=precision)
        return result, torch.cat([row.grad for row in selector.alpha])
    mixture = selector.sample("search", hard=False).weights.detach() if kind == "soft" else None
    result = weight_step(
        network, weights, x, y, None if kind == "soft" else [3, 4, 5, 3], mixture=mixture, precision=precision
    )
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())
    return result, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["weight", "soft", "alpha"])
def test_close_to_float32(kind):
    (exact, expected), (rounded, found) = gradients(kind, "fp32"), gradients(kind, "bf16")
    assert rounded.loss.dtype == torch.float32
    assert rounded.loss.item() != exact.loss.item()  # it did round
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.97


def test_a_run_stopped_and_resumed_in_bfloat16(tmp_path):
    def start(name, observers=()):
        (tmp_path / name).mkdir(exist_ok=True)
        return make_trainer(tmp_path / name, observers, precision="bf16")

    def stop(state):
        if (state.progress.epoch, state.progress.step) == (1, 3):
            state.stop(signal.SIGTERM)

    undisturbed = start("undisturbed")
    undisturbed.run()
    with pytest.raises(InterruptedRunError):
        start("stopped", [OnStep(stop)]).run()
    resumed = start("stopped")
    state = checkpoint.load(tmp_path / "stopped" / "checkpoints" / "last.pt")
    assert {t.dtype for t in state["network"].values()} == {torch.float32, torch.int64}
    resumed.state.load_state_dict(copy.deepcopy(state))
    resumed.run()
    ours, theirs = undisturbed.state.network.state_dict(), resumed.state.network.state_dict()
    assert all(map(torch.equal, ours.values(), theirs.values()))
    assert [r["train_loss"] for r in resumed.state.history] == [r["train_loss"] for r in undisturbed.state.history]
    assert all(0 < r["train_loss"] < 10 for r in resumed.state.history)


def test_retraining_in_bfloat16():
    losses = []
    for precision in ("fp32", "bf16"):
        config = RetrainConfig(limit_train=120, batch_size=30, epochs=1, auxiliary=0.4, precision=precision)
        data = load_data(config, config.batch_size, 0, CPU)
        spec = NetworkSpec.chain(make_config(candidates=("sep_conv_3x3",), depth=2, channels=8), 1, 10)
        retrainer = Retrainer(TrainingState(config, spec, data, CPU))
        retrainer.run()
        assert all(p.dtype == torch.float32 for p in retrainer.state.network.parameters())
        losses.append(retrainer.state.history[0]["train_loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
