"""Drawing one step ahead changes nothing: not what is drawn, not what a checkpoint holds."""

import copy
import signal

import pytest
import torch

from asose_fast.engine.alpha.estimators import make_estimator
from asose_fast.engine.alpha.lookahead import Lookahead
from asose_fast.engine.health.watch import Watch
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.store import checkpoint
from tests.helpers import OnStep, make_config, make_selector, make_trainer

GROWING = {"growth_patience": 1, "growth_threshold": 99.0, "growth_epochs": 3}


def run(folder, ahead, observers=(), **changes):
    folder.mkdir(exist_ok=True)
    trainer = make_trainer(folder, observers, **{**GROWING, **changes})
    trainer.state.lookahead.on = ahead
    return trainer


def assert_same(trainer, other):
    states = zip(trainer.state.network.state_dict().items(), other.state.network.state_dict().values(), strict=True)
    assert [name for (name, a), b in states if not torch.equal(a, b)] == []
    assert torch.equal(trainer.state.selector.logits(), other.state.selector.logits())
    assert torch.equal(trainer.state.selector.rng, other.state.selector.rng)
    assert [r["valid_accuracy"] for r in trainer.state.history] == [r["valid_accuracy"] for r in other.state.history]


@pytest.mark.parametrize("estimator", ["straight_through", "two_path", "soft"])
def test_a_run_is_the_same_ahead_and_not(tmp_path, estimator):
    runs = []
    for ahead in (False, True):
        runs.append(run(tmp_path / str(ahead), ahead, estimator=estimator))
        runs[-1].run()
    assert_same(*runs)


@pytest.mark.parametrize(("epoch", "step"), [(0, 5), (1, 2), (4, 1)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, epoch, step):
    def stop(state):
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            state.stop(signal.SIGTERM)

    undisturbed = run(tmp_path / "undisturbed", False)
    undisturbed.run()
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "stopped", True, [OnStep(stop)]).run()
    resumed = run(tmp_path / "stopped", True)
    resumed.state.load_state_dict(checkpoint.load(tmp_path / "stopped" / "checkpoints" / "last.pt"))
    resumed.run()
    assert_same(resumed, undisturbed)


def lookahead(on=True):
    return Lookahead(make_selector(), make_estimator(make_config()), on)


def test_a_draw_is_made_before_it_is_asked_for():
    ahead, plain = lookahead(), lookahead(on=False)
    for one in (ahead, plain):
        one.prepare("weight", "search")
    assert ahead.selector.rng[1] == 1
    assert plain.selector.rng[1] == 0
    assert ahead.weight("search") == plain.weight("search")
    assert torch.equal(ahead.selector.rng, plain.selector.rng)


@pytest.mark.parametrize("change", ["alpha", "temperature", "phase", "kind", "opening"])
def test_a_draw_from_what_has_changed_is_made_again(change):
    ahead, plain = lookahead(), lookahead(on=False)
    ahead.prepare("weight", "search")
    for one in (ahead, plain):
        if change == "alpha":
            with torch.no_grad():
                for row in one.selector.alpha:
                    row += torch.arange(10.0)
        elif change == "temperature":
            one.selector.temperature = 0.7
        elif change == "opening":
            one.selector._open({4: 1})
    if change == "kind":
        drawn, expected = ahead.alpha("search"), plain.alpha("search")
        assert drawn.path == expected.path
    else:
        phase = "growth" if change == "phase" else "search"
        assert ahead.weight(phase) == plain.weight(phase)
    assert torch.equal(ahead.selector.rng, plain.selector.rng)


def test_forgetting_takes_a_draw_back():
    ahead = lookahead()
    before = copy.deepcopy(ahead.selector.state_dict())
    ahead.prepare("alpha", "search")
    ahead.forget()
    assert torch.equal(ahead.selector.state_dict()["rng"], before["rng"])
    ahead.prepare("alpha", "search")
    ahead.selector.next_draw()  # someone else's, after it
    ahead.forget()
    assert ahead.selector.rng[1] == 2


def test_the_watch_tells_of_what_it_saw_the_time_before():
    watch, sums = Watch(every=2), [torch.zeros(()), torch.zeros(())]
    seen = [watch.finite(lambda: sums) for _ in range(4)]
    sums[1] += float("nan")
    seen += [watch.finite(lambda: sums) for _ in range(4)]
    assert seen == [True] * 7 + [False]
