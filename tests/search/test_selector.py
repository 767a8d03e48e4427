"""The selector: initial logits, boost, temperatures, noise at the start of the search, its state."""

import pytest
import torch

from asose_fast import ops
from tests.helpers import FEW, make_selector


def test_initial_alpha():
    alpha = make_selector(layers=500).logits().detach()
    assert alpha.shape == (500, 10)
    assert (alpha[:, 0] == -2).all()
    assert (alpha[:, 3] == 1).all()
    rest = alpha[:, [1, 2, *range(4, 10)]]
    assert abs(rest.std().item() - 0.5) < 0.02
    assert abs(rest.mean().item()) < 0.02
    assert torch.equal(make_selector(seed=5).logits(), make_selector(seed=5).logits())
    assert not torch.equal(make_selector(seed=5).logits(), make_selector(seed=6).logits())


def test_boost_belongs_to_the_search_phase():
    selector = make_selector()
    assert selector.boost("search") == ops.Boost(top_k=3, amount=0.5, below=0.4, skip=3, none=0)
    assert all(selector.boost(phase) is None for phase in ("warmup", "growth", "optimize"))
    assert make_selector(boost_top_k=0).boost("search") is None


def test_boost_follows_the_candidates_of_the_space():
    assert make_selector(FEW).boost("search") == ops.Boost(3, 0.5, 0.4, skip=1, none=0)
    assert make_selector(("sep_conv_3x3", "dil_conv_3x3")).boost("search") == ops.Boost(2, 0.5, 0.4, skip=-1, none=-1)


@pytest.mark.parametrize("phase", ["search", "growth"])
def test_the_boost_reaches_the_weights(phase):
    selector = make_selector(layers=1)
    selector.alpha[0].data = torch.tensor([-2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.1, 0.1])
    noise = ops.gumbel_noise(selector.rng, 1, 10)
    boosted = selector.logits().detach().double()
    boosted[0, 5:8] += 0.5 * (phase == "search")
    soft = selector.sample(phase, hard=False).weights
    torch.testing.assert_close(soft.double(), ((boosted + noise) / 1.5).softmax(1), rtol=1e-6, atol=1e-7)


def test_temperature_schedule():
    selector = make_selector()
    for step in range(700):
        assert selector.temperature == pytest.approx(max(0.1, 1.5 * 0.995**step))
        selector.cool()
    assert selector.temperature == 0.1


def test_the_clamp_of_the_search_leaves_the_temperature_as_it_is():
    selector = make_selector()
    selector.temperature = 0.2
    assert selector.effective_temperature("search") == 0.5
    assert selector.effective_temperature("growth") == 0.2
    noise = ops.gumbel_noise(selector.rng, 4, 10)
    soft = selector.sample("search", hard=False).weights
    expected = ops.arch_weights(selector.logits(), 0.5, hard=False, boost=selector.boost("search"), noise=noise).weights
    assert torch.equal(soft, expected)
    assert selector.temperature == 0.2
    selector.temperature = 1.2
    assert selector.effective_temperature("search") == 1.2


def test_noise_at_the_start_of_the_search():
    selector = make_selector(layers=500)
    before = selector.logits().detach().clone()
    selector.perturb()
    added = selector.logits().detach() - before
    assert abs(added.std().item() - 0.05) < 0.003
    assert abs(added.mean().item()) < 0.003
    assert all(row.requires_grad and row.is_leaf for row in selector.alpha)


def test_best_path_and_monitor_describe_alpha_without_noise():
    selector = make_selector()
    p = selector.logits().detach().double().softmax(1)
    assert selector.best_path() == p.argmax(1).tolist()
    entropy, largest = selector.monitor()
    torch.testing.assert_close(entropy.double(), -(p * p.log()).sum(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(largest.double(), p.amax(1), rtol=1e-5, atol=1e-6)


def test_state_continues_every_draw():
    selector = make_selector()
    selector.sample("search")
    selector.insert_layer(2)
    selector.cool()
    other = make_selector(seed=99)
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in selector.state_dict().items()}
    other.load_state_dict(state)
    for one in (selector, other):
        one.perturb()
        one.insert_layer(0)
    assert torch.equal(selector.logits(), other.logits())
    assert [selector.path("search") for _ in range(5)] == [other.path("search") for _ in range(5)]
    assert selector.temperature == other.temperature


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_floor": 0.0}, "0 < temperature_floor <= temperature"),
        ({"temperature": 0.05}, r"got 0\.1, 0\.05 and 0\.995"),
        ({"temperature_decay": 1.5}, "temperature_decay <= 1"),
        ({"warmup": "skip", "candidates": ("none",)}, "needs the candidate skip_connect; the space has none"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_selector(**{"candidates": FEW, **changes})


def test_processes_that_draw_apart_draw_differently_and_the_first_as_on_its_own():
    def draws(process):
        selector = make_selector()
        if process is not None:
            selector.draw_apart(process)
        return [selector.path("warmup") for _ in range(5)] + [selector.path("search") for _ in range(5)]

    assert draws(0) == draws(None)
    assert len({str(draws(process)) for process in range(4)}) == 4
