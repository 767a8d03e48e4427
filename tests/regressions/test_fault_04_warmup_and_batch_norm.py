"""Fault 4: warmup trained no candidate, and stale batch-norm statistics wrecked evaluation after sampling."""

import torch

from asose_fast.engine.evaluate import recalibrate
from tests.helpers import candidates_of, make_network, make_selector, make_trainer


def test_warmup_trains_every_candidate(tmp_path):
    trainer = make_trainer(tmp_path, batch_size=10, warmup_epochs=4)
    before = {
        (layer, name): [p.clone() for p in op.parameters()] for layer, name, op in candidates_of(trainer.state.network)
    }
    phase = trainer.state.phases[0]
    for epoch in range(phase.epochs):
        for x, y in trainer.state.data.train.batches(epoch):
            trainer._weight_step(phase, x, y)
    for layer, name, op in candidates_of(trainer.state.network):
        for old, new in zip(before[layer, name], op.parameters(), strict=True):
            assert not torch.equal(old, new), f"layer {layer}, {name}"


def test_warmup_paths_are_uniform_whatever_alpha():
    selector = make_selector(layers=2)
    selector.alpha[0].data[3] = 50.0
    paths = torch.tensor([selector.path("warmup") for _ in range(2000)])
    for layer in range(2):
        counts = torch.bincount(paths[:, layer], minlength=10)
        assert ((counts - 200.0).square() / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_warmup_can_be_the_fixed_skip_of_the_original():
    assert make_selector(layers=3, warmup="skip").path("warmup") == [3, 3, 3]


def test_recalibrated_statistics_are_the_mean_over_batches_of_the_derived_path():
    network = make_network().derive([4, 1, 7, 9])
    batches = [(3 + 2 * torch.randn(8, 3, 9, 9), None) for _ in range(4)]
    stem = network.stem
    stem[1].running_mean.fill_(1e6)
    stem[1].running_var.fill_(1e12)
    recalibrate(network, batches, 3)
    with torch.no_grad():
        used = [stem[0](x).transpose(0, 1).flatten(1) for x, _ in batches[:3]]
    torch.testing.assert_close(stem[1].running_mean, torch.stack([x.mean(1) for x in used]).mean(0))
    torch.testing.assert_close(stem[1].running_var, torch.stack([x.var(1) for x in used]).mean(0))
    assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_an_evaluation_does_not_depend_on_the_paths_sampled_before(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.state.progress.phase = "search"
    x, _ = next(trainer.state.data.valid.batches(0))

    def scores():
        derived = trainer.state.derived()
        trainer.state.calibrate(derived)
        return derived.eval()(x).detach()

    expected = scores()
    for module in trainer.state.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.fill_(1e6)
    assert not torch.equal(trainer.state.derived().eval()(x), expected)
    assert torch.equal(scores(), expected)
