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


def twins(**changes):
    """Two selectors of the same seed, the second with a candidate more."""
    one, other = (make_selector(FEW, seed=7, **changes) for _ in range(2))
    other.add_candidate("dil_conv_3x3")
    return one, other


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("phase", ["search", "growth"])
@pytest.mark.parametrize("temperature", [1.5, 0.1])
def test_an_added_candidate_changes_nothing_at_first(phase, temperature, backend):
    if backend == "cpu" and (missing := ops.registry.why_not("arch_weights", "cpu", "cpu", torch.float32)):
        pytest.skip(missing)
    with ops.backend(backend):
        one, other = twins()
        one.temperature = other.temperature = temperature
        assert other.candidates == [*FEW, "dil_conv_3x3"]
        assert other.best_path() == one.best_path()
        for before, after in zip(one.monitor(), other.monitor(), strict=True):
            torch.testing.assert_close(after, before)
        old, new = one.sample(phase, hard=False).weights, other.sample(phase, hard=False).weights
        torch.testing.assert_close(new[:, :-1], old)
        assert (new[:, -1] == 0).all()
        old, new = one.sample(phase).weights, other.sample(phase).weights
        assert torch.equal(new[:, :-1], old)
        assert (new[:, -1] == 0).all()
        assert [one.path(phase) for _ in range(200)] == [other.path(phase) for _ in range(200)]
        factors = torch.randn(4, 5)
        for selector in (one, other):
            weights = selector.sample(phase).weights
            (weights * factors[:, : weights.shape[1]]).sum().backward()
        for before, after in zip(one.alpha, other.alpha, strict=True):
            torch.testing.assert_close(after.grad[:-1], before.grad, rtol=1e-5, atol=1e-6)
            assert after.grad[-1] == 0


def test_an_added_candidate_opens_with_the_alpha_steps():
    one, other = twins(opening_steps=4)
    p = one.logits().detach().double().softmax(1)
    for step in range(7):
        openness = min(1, step / 4)
        share = openness / (len(FEW) + openness)  # the average of the others is 1 / K of them
        got = other.logits().detach().double().softmax(1)
        torch.testing.assert_close(got[:, -1], torch.full((4,), share, dtype=torch.float64), rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(got[:, :-1], p * (1 - share), rtol=1e-5, atol=1e-9)
        assert other.best_path() == one.best_path()
        assert bool(other.opening) == (step < 4)
        other.cool()
    assert torch.equal(other.logits(), torch.stack(other.alpha))


def test_an_open_candidate_is_sampled_by_its_probability():
    _, other = twins(opening_steps=2)
    other.cool()
    drawn = torch.tensor([other.path("growth") for _ in range(2000)])
    assert abs((drawn == 4).double().mean().item() - 0.5 / 4.5) < 0.015


def test_an_added_candidate_can_win():
    _, other = twins(opening_steps=5)
    optimizer = torch.optim.Adam(other.alpha, 0.1, betas=(0.5, 0.999))
    for _ in range(60):
        optimizer.zero_grad()
        (-other.sample("growth").weights[:, -1]).sum().backward()
        optimizer.step()
        other.cool()
    assert other.best_path() == [4] * 4


def test_state_continues_an_opening():
    _, other = twins(opening_steps=4)
    other.cool()
    other.add_candidate("dil_conv_5x5")
    read = make_selector(FEW, seed=99, opening_steps=4)
    read.load_state_dict(other.state_dict())
    assert read.candidates == other.candidates
    for _ in range(5):
        assert torch.equal(read.logits(), other.logits())
        assert read.path("growth") == other.path("growth")
        for selector in (read, other):
            selector.cool()
    assert read.insert_layer(0).shape == (6,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature_floor": 0.0}, "temperature_floor must be above 0"),
        ({"temperature": 0.05}, r"temperature_floor must be at most temperature \(0\.05\), got 0\.1"),
        ({"temperature_decay": 1.5}, "temperature_decay must be above 0 and at most 1, got 1.5"),
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
