"""The phase finals: several networks are trained against each other, and the best of them is derived."""

import copy
import json
import math
import signal

import pytest
import torch
import yaml

from asose_fast.config import Config
from asose_fast.derive import derive
from asose_fast.engine.alpha.budget import path_cost
from asose_fast.engine.finals import finals
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.step.steps import weight_step
from asose_fast.report.run import read
from asose_fast.space.prune import left_out, pruned_spec
from asose_fast.store import checkpoint
from asose_fast.train import main
from tests.engine.test_trainer import without_timings
from tests.helpers import FEW, OnStep, make_config, make_trainer, options

FINALS = {
    "finals_epochs": 3,
    "finals_paths": 4,
    "search_epochs": 1,
    "optimize_epochs": 2,
    "optimize_learning_rate": 0.1,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
}
"""The phases begin after 0, 1, 2, 3 and 6 epochs of 5 batches. Four finalists take a step each, two of them five each,
and the winner takes the one that is left."""


@pytest.fixture
def steps(monkeypatch):
    """Lists (network, images) of every step of a finalist."""
    seen = []

    def step(network, optimizer, x, y, path, **keywords):
        seen.append((network, x.clone()))
        return weight_step(network, optimizer, x, y, path, **keywords)

    monkeypatch.setattr(finals, "weight_step", step)
    return seen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.manual_seed(123)
    trainer = make_trainer(tmp_path_factory.mktemp("undisturbed"), **FINALS)
    trainer.run()
    return trainer


def test_a_rung_counts_all_steps_since_the_finals_began(tmp_path, monkeypatch):
    taken = {}

    def step(network, *arguments, **keywords):
        result = weight_step(network, *arguments, **keywords)
        taken.setdefault(id(network), []).append((float(result.loss) * result.images, result.images))
        return result

    monkeypatch.setattr(finals, "weight_step", step)
    trainer = make_trainer(tmp_path, **FINALS)
    trainer.run()
    last = [rung for record in trainer.state.history for rung in record.get("finals", [])][-1]
    means = [sum(x for x, _ in six[:6]) / sum(n for _, n in six[:6]) for six in taken.values() if len(six) >= 6]
    assert [one["loss"] for one in last["finalists"]] == pytest.approx(sorted(means), rel=1e-5)


@pytest.mark.parametrize("origin", ["supernet", "scratch"])
def test_finalists_begin_with_the_weights_that_the_derived_network_would(tmp_path, origin):
    state = make_trainer(tmp_path, **FINALS, optimize_from=origin).state
    state.begin_finals(next(phase for phase in state.phases if phase.finals))
    for finalist in state.finals.finalists.values():
        again = make_trainer(tmp_path / "again", **FINALS, optimize_from=origin).state
        again.network.load_state_dict(state.network.state_dict())
        again.derive(finalist.path)
        ours, theirs = finalist.network.state_dict(), again.network.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        inherited = state.network.derive(finalist.path).state_dict()
        same = [torch.equal(ours[key], inherited[key]) for key in ours if key.endswith("weight")]
        assert all(same) == (origin == "supernet")


def test_the_phase_stands_before_optimize_and_its_winner_is_derived(undisturbed):
    history = undisturbed.state.history
    phases = [r["phase"] for r in history]
    assert phases == ["warmup", "search", "growth", "finals", "finals", "finals", "optimize", "optimize"]
    rungs = [rung for r in history for rung in r.get("finals", [])]
    assert [(len(rung["finalists"]), rung["steps"], rung["epoch"]) for rung in rungs] == [(4, 1, 4), (2, 5, 6)]
    for rung in rungs:
        losses = [finalist["loss"] for finalist in rung["finalists"]]
        assert losses == sorted(losses)
        half = len(losses) // 2
        assert [finalist["stays"] for finalist in rung["finalists"]] == [True] * half + [False] * half
    chosen = [f["operations"] for f in rungs[0]["finalists"]]
    assert len({tuple(operations) for operations in chosen}) == 4
    winner = rungs[1]["finalists"][0]
    assert tuple(winner["operations"]) == undisturbed.state.network.operations
    assert winner["parameters"] == sum(p.numel() for p in undisturbed.state.network.parameters())
    assert undisturbed.state.best_path() == [FEW.index(name) for name in winner["operations"]]
    assert all("finals" not in r for r in history if r["phase"] != "finals")
    assert [r["learning_rate"] for r in history if r["phase"] == "finals"] == [0.1] * 3
    assert history[2]["learning_rate"] == pytest.approx(0.001)  # the supernet's cosine has come to its end


def test_a_rung_sees_the_same_batches_and_its_networks_share_nothing(tmp_path, steps):
    trainer = make_trainer(tmp_path, **{**FINALS, "cutmix": 0.0, "augment": False})
    before = []
    trainer.observers.append(OnStep(lambda s: before.append(copy.deepcopy(s.network.state_dict())) if s.finals else 0))
    trainer.run()
    assert len(steps) == 15
    for start, end in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14)):
        assert len({id(network) for network, _ in steps[start:end]}) == end - start
        assert all(torch.equal(x, steps[start][1]) for _, x in steps[start:end])
    starts = [x for _, x in (steps[i] for i in (0, 4, 6, 8, 10))]
    for x, expected in zip(starts, trainer.state.data.train.batches(3, augment=False), strict=True):
        assert torch.equal(x, expected[0])
    weights = [name for name, _ in trainer.state.task.supernet().named_parameters()]
    assert all(torch.equal(before[0][name], before[-1][name]) for name in weights)
    tensors = [p.data_ptr() for network in {id(n): n for n, _ in steps}.values() for p in network.parameters()]
    assert len(tensors) == len(set(tensors))


def test_a_finalist_is_trained_as_the_derived_network_is(tmp_path):
    """The most probable network, by hand: from the supernet's weights, by the recipe, at optimize's rate."""
    trainer = make_trainer(tmp_path, **FINALS)
    found = []

    def look(state):
        if state.finals is not None and not found:
            found.append(copy.deepcopy(state.finals.finalists[0].network))
        return None

    trainer.observers.append(OnStep(look))
    trainer.run()
    again = make_trainer(tmp_path / "again", **FINALS).state
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "supernet.pt"))
    network = again.network.derive(again.best_path())
    x, y = next(again.data.train.batches(3, augment=True))
    x, y = again.task.recipe.batch(x, y, 3, 0)
    objective = again.task.recipe.objective
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=3e-4)
    weight_step(network, optimizer, x, y, None, clip=5.0, objective=objective)
    for (name, p), q in zip(network.named_parameters(), found[0].parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def resumed(folder):
    torch.manual_seed(987654)
    trainer = make_trainer(folder, **FINALS)
    trainer.state.load_state_dict(checkpoint.load(folder / "checkpoints" / "last.pt"))
    trainer.run()
    return trainer


@pytest.mark.parametrize(("epoch", "step"), [(2, 5), (3, 2), (3, 4), (4, 3), (5, 4), (5, 5), (6, 2)])
def test_a_run_stopped_in_the_finals_ends_as_if_it_had_not_been(tmp_path, undisturbed, epoch, step):
    def stop(state):
        if (state.progress.epoch, state.progress.step) == (epoch, step):
            state.stop(signal.SIGTERM)

    with pytest.raises(InterruptedRunError):
        make_trainer(tmp_path, [OnStep(stop)], **FINALS).run()
    again = resumed(tmp_path)
    for ours, theirs in (
        (again.state.network, undisturbed.state.network),
        (again.state.best_network(), undisturbed.state.best_network()),
        (again.state.average.network, undisturbed.state.average.network),
    ):
        values = theirs.state_dict()
        assert all(torch.equal(value, values[name]) for name, value in ours.state_dict().items())
    assert without_timings(again.state.history) == without_timings(undisturbed.state.history)
    assert again.state.best_path() == undisturbed.state.best_path()


def test_the_winner_keeps_its_weights_and_its_momentum(tmp_path):
    trainer = make_trainer(tmp_path, **FINALS)
    kept = []

    class AtTheStart(OnStep):
        def on_phase_start(self, state, phase):
            if phase.name == "optimize":
                kept.append(copy.deepcopy(state.weight_optimizer.state_dict()["state"]))
                kept.append([p.detach().clone() for p in state.network.parameters()])

    trainer.observers.append(AtTheStart(lambda _: None))
    trainer.run()
    saved = checkpoint.load(tmp_path / "checkpoints" / "epoch-0006-step-000000.pt")["finals"]
    (finalist,) = saved["finalists"].values()
    names = [name for name, _ in trainer.state.network.named_parameters()]
    for i, name in enumerate(names):
        assert torch.equal(kept[1][i], finalist["network"][name])
    momenta = {names[i]: state["momentum_buffer"] for i, state in kept[0].items()}
    assert momenta.keys() == finalist["optimizer"].keys()
    assert len(momenta) > 4
    assert all(torch.equal(momenta[name], finalist["optimizer"][name]["momentum_buffer"]) for name in momenta)


def test_the_supernet_can_be_derived_from_while_the_finals_go_on(tmp_path):
    def stop(state):
        if state.finals is not None and state.progress.step == 3:
            state.stop(signal.SIGTERM)

    trainer = make_trainer(tmp_path, [OnStep(stop)], **FINALS)
    with pytest.raises(InterruptedRunError):
        trainer.run()
    for kept in (True, False):
        found = derive(tmp_path).network
        whole = trainer.state.network.derive(trainer.state.best_path()).spec
        assert found.operations == pruned_spec(whole).operations
        if kept:
            (tmp_path / "checkpoints" / "supernet.pt").unlink()


def test_a_search_that_has_decided_and_a_budget(tmp_path):
    """Finalists differ though alpha is one-hot, and all keep the budget."""
    bound = 330
    trainer = make_trainer(tmp_path, **FINALS, derive_max_parameters=bound)

    def decide(state):
        if state.finals is None:
            for row in state.selector.alpha:
                row.data.fill_(-30.0)
                row.data[FEW.index("sep_conv_3x3")] = 30.0

    trainer.observers.append(OnStep(decide))
    trainer.run()
    supernet = trainer.state.task.supernet()
    costs = trainer.state.task.budget.costs(supernet)
    first = next(r["finals"][0] for r in trainer.state.history if r.get("finals"))["finalists"]
    assert len({tuple(finalist["operations"]) for finalist in first}) == 4
    assert path_cost([FEW.index("sep_conv_3x3")] * 2, costs).parameters > bound
    for finalist in first:
        assert finalist["parameters"] <= bound
        path = [FEW.index(name) for name in finalist["operations"]]
        gains = len(left_out(supernet.derive(path).spec))  # of the blocks that are not written
        assert path_cost(path, costs).parameters == finalist["parameters"] - gains


def test_a_uniform_pool_does_not_look_at_alpha_and_keeps_the_budget(tmp_path):
    bound, pools = 330, []
    for name in ("skip_connect", "sep_conv_3x3"):
        folder = tmp_path / name
        trainer = make_trainer(folder, **FINALS, derive_max_parameters=bound, finals_from="uniform")
        for row in trainer.state.selector.alpha:
            row.data[FEW.index(name)] = 30.0
        trainer.run()
        first = next(r["finals"][0] for r in trainer.state.history if r.get("finals"))["finalists"]
        assert all(finalist["parameters"] <= bound for finalist in first)
        pools.append({tuple(finalist["operations"]) for finalist in first})
        drawn = checkpoint.load(folder / "checkpoints" / "epoch-0006-step-000000.pt")["finals"]["begun"]
        assert len(pools[-1]) == drawn == 4
    assert pools[0] == pools[1]


def test_a_finalist_that_diverges_goes_and_where_all_do_the_run_ends(tmp_path):
    def spoil(numbers):
        def spoiled(state):
            if state.finals is not None and state.finals.bracket.done == 1:
                for k in numbers:
                    next(state.finals.finalists[k].network.parameters()).data.fill_(math.nan)

        return OnStep(spoiled)

    trainer = make_trainer(tmp_path / "one", [spoil([1])], **FINALS)
    trainer.run()
    first = next(r["finals"][0] for r in trainer.state.history if r.get("finals"))["finalists"]
    assert [finalist["loss"] is None for finalist in first] == [False, False, False, True]
    assert not first[-1]["stays"]
    trainer = make_trainer(tmp_path / "all", [spoil([0, 1, 2, 3])], **FINALS)
    with pytest.raises(SearchDivergedError, match="the loss of every finalist is not finite in phase finals"):
        trainer.run()


def test_what_cannot_be_is_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match="finals of 8 networks take 24 steps or more, and there are 5: give finals_ep"):
        make_trainer(tmp_path, finals_epochs=1)
    with pytest.raises(ValueError, match="derive_among and finals_epochs choose what is derived in two ways"):
        make_config(finals_epochs=1, derive_among=3)
    with pytest.raises(ValueError, match="finals_paths must be at least 2"):
        make_config(finals_paths=1)


def test_settings_and_checkpoints_of_earlier_releases_are_read(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.save("last")
    saved = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    for name in ("finals_epochs", "finals_paths", "finals_from", "derive_by"):
        del saved["config"][name]
    del saved["derived_path"]
    assert Config.from_dict(saved["config"]) == trainer.state.config
    again = make_trainer(tmp_path / "again")
    again.state.load_state_dict(saved)
    again.run()
    assert again.state.best_path() == again.state.selector.best_path()


def test_the_command_writes_the_rungs(tmp_path, capsys):
    settings = options(finals_epochs=2, finals_paths=2, search_epochs=1)
    assert main([*settings, "--out", str(tmp_path / "run"), "--plain"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (rung,) = summary["finals"]
    found = rung["finalists"][0]["operations"]
    assert [name for i, name in enumerate(found) if i not in summary["left_out"]] == summary["operations"]
    assert rung["steps"] == 5
    assert summary["phases"]["finals"]["epochs"] == 2
    best = rung["finalists"][0]
    line = f"finals: 1 of 2 stay after 5 steps each; the best has the loss {best['loss']:.3f} and"
    assert line in capsys.readouterr().out.replace("\n", " ")
    planned = [(phase.name, phase.epochs) for phase in read(tmp_path / "run").phases]
    assert planned == [("warmup", 1), ("search", 1), ("growth", 1), ("finals", 2), ("optimize", 1)]


def test_the_report_of_an_earlier_run_has_its_phases_as_planned(tmp_path):
    settings = make_config().to_dict()
    del settings["finals_epochs"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "phase": "warmup"}\n')
    assert [phase.name for phase in read(tmp_path).phases] == ["warmup", "search", "growth", "optimize"]


@pytest.mark.parametrize("space", [{"space": "darts", "cells": 3}, {"space": "nasbench201", "cells": 1}])
def test_cells(tmp_path, space):
    trainer = make_trainer(tmp_path, **FINALS, **space, candidates=())
    trainer.run()
    rungs = [rung for r in trainer.state.history for rung in r.get("finals", [])]
    assert [len(rung["finalists"]) for rung in rungs] == [4, 2]
    assert tuple(rungs[-1]["finalists"][0]["operations"]) == trainer.state.network.operations
