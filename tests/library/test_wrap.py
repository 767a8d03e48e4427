"""A search in a wrapped model: it begins where the model is, keeps bounds, and ends in plain modules."""

import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import asose_fast
from asose_fast import Config, MixedOp, Searcher
from tests.library.networks import small
from tests.space.test_wrap import SHAPE, make


def images(seed):
    """Two classes by contrast."""
    generator = torch.Generator().manual_seed(seed)
    xs = [
        torch.randn(10, 3, 8, 8, generator=generator) * torch.rand(10, 1, 1, 1, generator=generator) for _ in range(4)
    ]
    return [(x, (x.std((1, 2, 3)) > 0.5).long()) for x in xs]


def flops(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))
    return counter.get_total_flops()


def test_a_search_keeps_half_the_flops(tmp_path):
    model, loaders = make(), (images(0), images(1), images(2))
    bound = asose_fast.wrappable(model, SHAPE).flops // 2
    config = small(derive_max_flops=bound, derive_max_parameters=3000)
    space = asose_fast.wrap(model, SHAPE)
    found = asose_fast.search(space, loaders, config, folder=tmp_path)
    assert list(found.genotype) == [name for name, module in space.named_modules() if isinstance(module, MixedOp)]
    assert flops(found.network) <= bound < flops(model)
    assert sum(p.numel() for p in found.network.parameters()) <= 3000
    assert not any(type(module).__module__.startswith("asose_fast") for module in found.network.modules())
    x = torch.randn(SHAPE)
    loaded = asose_fast.load(tmp_path, asose_fast.wrap(make(), SHAPE))  # as another process would
    assert torch.equal(loaded(x), found.network(x))
    file = io.BytesIO()
    torch.export.save(torch.export.export(found.network, (x,)), file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(x), found.network(x))


def test_the_search_begins_where_the_model_is():
    model = make().eval()
    space = asose_fast.wrap(model, SHAPE)
    x = torch.randn(SHAPE)
    searcher = Searcher(space, Config(alpha_std=0.0))
    assert set(searcher.genotype.values()) == {"original"}
    assert torch.equal(space(x), model(x))
    assert torch.equal(searcher.derive().eval()(x), model(x))


def test_the_logits_of_the_originals_begin_as_asked():
    searcher = Searcher(asose_fast.wrap(make(), SHAPE, original_logit=2.5), Config(alpha_std=0.1))
    for logits in searcher.alpha.values():
        assert logits.pop("original") == 2.5
        assert 0 < max(map(abs, logits.values())) < 1


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ({"b": 1.0}, "logits are of candidates, a, got one of 'b'"),
        ({"a": float("nan")}, "logit of candidate 'a' must be"),
    ],
)
def test_logits_of_a_mixed_operation_are_checked(logits, message):
    with pytest.raises(ValueError, match=message):
        MixedOp({"a": torch.nn.Identity()}, logits=logits)
