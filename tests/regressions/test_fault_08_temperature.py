"""Fault 8: temperature decides only the gradient of a hard sample, never what is sampled; freezing means deriving."""

import pytest
import torch

from tests.helpers import make_selector, make_trainer


@pytest.mark.parametrize("phase", ["search", "growth"])
def test_temperature_does_not_alter_what_is_sampled(phase):
    drawn = []
    for temperature in (1.5, 0.5, 0.1):
        selector = make_selector()
        selector.temperature = temperature
        drawn.append([selector.path(phase) for _ in range(50)])
    assert drawn[0] == drawn[1] == drawn[2]
    assert len({tuple(path) for path in drawn[0]}) > 10  # so that T = 0.1 is no freeze


def test_temperature_does_alter_the_gradient():
    gradients = []
    for temperature in (1.5, 0.1):
        selector = make_selector()
        selector.temperature = temperature
        selector.sample("growth").weights.square().sum().backward()
        gradients.append(torch.stack([row.grad for row in selector.alpha]))
    assert not torch.allclose(*gradients)


def test_optimize_trains_the_derived_network_which_inherits_weights_and_momentum(tmp_path):
    trainer = make_trainer(tmp_path)
    state = trainer.state
    for phase in state.phases[:3]:
        trainer._enter(phase)
        trainer._train_epoch(phase)
        trainer._end_epoch(phase)
    supernet, momentum, path = (
        state.network,
        state.weight_optimizer.state,
        state.selector.best_path(),
    )
    trainer._enter(state.phases[3])
    derived = state.network
    assert derived is not supernet
    for block, old, k in zip(derived.blocks, supernet.blocks, path, strict=True):
        (op,) = block.mixed.ops.values()
        assert op is list(old.mixed.ops.values())[k]
    for p in derived.parameters():
        assert (p in state.weight_optimizer.state) == (p in momentum)
        if p in momentum:
            assert torch.equal(state.weight_optimizer.state[p]["momentum_buffer"], momentum[p]["momentum_buffer"])
    x = next(state.data.valid.batches(0))[0]
    derived.eval()
    supernet.eval()
    torch.testing.assert_close(derived(x), supernet(x, path=path))
    alpha = state.selector.logits().detach().clone()
    trainer._train_epoch(state.phases[3])
    assert torch.equal(state.selector.logits(), alpha)
