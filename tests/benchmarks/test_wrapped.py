"""`benchmarks/evidence/wrapped.py`: what it compares, and that it notices a space which does not begin as its model."""

import pytest
import torch
from torch import nn

import asose_fast
from asose_fast.data import load_data
from benchmarks.evidence import wrapped
from tests.helpers import CPU, make_config


def make(seed):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 10))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # so few steps decide nothing
def test_halves_are_within_the_share_and_begin_where_they_are_to(monkeypatch):
    begun, wrap = [], asose_fast.wrap
    monkeypatch.setattr(
        asose_fast, "wrap", lambda model, *rest, **more: begun.append(model) or wrap(model, *rest, **more)
    )
    config, model = make_config(), make(0)
    data = load_data(config, config.batch_size, config.seed, CPU)
    found = list(wrapped.halves("vgg", model, data, config, 4, 0.5))
    kinds = [wrapped.ORIGINAL, wrapped.SEARCHED, wrapped.CHEAPENED]
    assert [(one.begins_with, one.network) for one in found] == [(b, k) for b in ("random", "trained") for k in kinds]
    whole = asose_fast.wrappable(model, (1, 1, 8, 8))
    for one in found:
        if one.network == wrapped.ORIGINAL:
            assert (one.flops, one.parameters) == (whole.flops, whole.parameters)
        else:
            assert one.flops <= whole.flops // 2
    _, *random, first, second, third = begun  # the first is only looked at
    assert all(each is model for each in random)
    assert first is second is third
    assert not torch.equal(first[0].weight, model[0].weight)


def test_a_space_that_begins_elsewhere_is_noticed():
    x = torch.randn(4, 1, 8, 8)
    wrapped.require_same(make(0), asose_fast.wrap(make(0), x), x)
    with pytest.raises(ValueError, match="the space does not begin as the model, in evaluation"):
        wrapped.require_same(make(0), asose_fast.wrap(make(1), x), x)


def test_an_export_that_gives_something_else_is_noticed(monkeypatch):
    x = torch.randn(1, 1, 8, 8)
    assert torch.allclose(wrapped.exported(make(0).eval(), x)(x), make(0).eval()(x), atol=1e-5)
    monkeypatch.setattr(torch.export, "load", lambda _: torch.export.export(make(1).eval(), (x,)))
    with pytest.raises(ValueError, match="the exported network gives something else"):
        wrapped.exported(make(0).eval(), x)


def test_a_search_has_as_many_epochs_as_a_training():
    for network in (wrapped.ORIGINAL, wrapped.SEARCHED):
        assert sum(phase.epochs for phase in wrapped.phases(network, 12)) == 12
    assert [phase.name for phase in wrapped.phases(wrapped.SEARCHED, 12)] == ["search", "optimize"]
