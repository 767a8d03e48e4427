"""The commands of `benchmarks/evidence`: that what they plant is there, that faults are faults, that figures add up."""

import argparse
import json

import pytest
import torch

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.evaluate import accuracy, recalibrate
from asose_fast.engine.step import graphs
from asose_fast.engine.trainer import Trainer
from benchmarks.evidence import ablation, estimators, failure_and_fix, faults, plain, planted, ranking, search_vs_random
from benchmarks.evidence.report import Table
from tests.helpers import TINY, make_config, make_trainer
from tests.processes import Command

SMALL = {"channels": 4, "depth": 2, "search_epochs": 2, "growth_epochs": 1}


def small_config(**changes):
    return Config(**{**planted.SEARCH, **SMALL, **changes})


def test_the_planted_path_of_the_supernet_gives_the_labels():
    task = planted.make_task(small_config(), seed=3, images=300)
    labels = torch.cat([y for _, y in task.data.train.batches(0)])
    counts = torch.bincount(labels, minlength=planted.CLASSES)
    assert counts.min() >= 15
    assert counts.sum() == 300
    network = task.supernet.derive(task.path)
    recalibrate(network, task.data.train.batches(0, augment=False), 16)
    assert accuracy(network, task.data.valid.batches(0)) > 0.9
    assert all(task.supernet.spec.blocks[0].candidates[k] != "none" for k in task.path)


def test_every_seed_plants_something_else():
    tasks = [planted.make_task(small_config(depth=6), seed, images=50) for seed in range(2)]
    assert tasks[0].path != tasks[1].path
    assert not torch.equal(tasks[0].data.train._pool.pixels, tasks[1].data.train._pool.pixels)


def test_planted_operations_are_recovered_with_the_weights_untouched():
    run = planted.recover(
        0, images=500, channels=4, depth=2, search_epochs=12, growth_epochs=6, alpha_learning_rate=0.1
    )
    assert run.found == run.planted
    assert run.recovered == run.layers == 2


def test_without_alphas_gradient_nothing_is_found():
    run = planted.recover(0, images=100, search=faults.no_gradient, **SMALL, alpha_noise=0.0)
    selector = faults.sound(small_config(), planted.make_task(small_config(), 0, 100).data).selector
    assert run.found == [Config().candidates[k] for k in selector.best_path()]


class Watch:
    """Keeps alpha as it is at the end of every epoch."""

    def __init__(self):
        self.alpha = []

    def on_epoch_start(self, state, phase): ...

    def on_step(self, state): ...

    def on_epoch_end(self, state, record):
        self.alpha.append(torch.stack(state.selector.alpha).detach().clone())


def watched(folder, search, **changes):
    """Alpha at the end of the epochs of a run: one of warmup, two of search, one of growth, one of optimize."""
    watch = Watch()
    config = make_config(alpha_noise=0.0, max_depth=2, **changes)
    data = make_trainer(folder, **changes).state.data
    Trainer(search(config, data), observers=[watch]).run()
    return watch.alpha


def test_the_original_never_moves_alpha(tmp_path):
    alpha = watched(tmp_path, faults.original, warmup="skip")
    assert len(alpha) == 5
    assert all(torch.equal(alpha[0], later) for later in alpha)


def test_a_detached_boost_freezes_the_layers_that_are_boosted(tmp_path):
    warmup, *search, growth, _ = watched(tmp_path, faults.detached_boost, boost_below=1.0, alpha_skip=-9.0)
    assert all(torch.equal(warmup, later) for later in search)
    assert not torch.equal(warmup, growth)  # without boost


def test_alpha_learns_on_training_images_and_is_measured_on_others(tmp_path, monkeypatch):
    state = faults.on_training_images(make_config(augment=False), make_trainer(tmp_path, augment=False).state.data)
    seen, measured, alpha_step = [], [], graphs.alpha_step

    def watched_step(network, optimizer, x, *arguments, **options):
        seen.extend(map(bytes_of, x))
        return alpha_step(network, optimizer, x, *arguments, **options)

    def watched_accuracy(network, batches, processes, measure=state.task.accuracy):
        batches = list(batches)
        measured.extend(bytes_of(image) for x, _ in batches for image in x)
        return measure(network, batches, processes)

    monkeypatch.setattr(graphs, "alpha_step", watched_step)
    state.task.accuracy = watched_accuracy
    Trainer(state).run()
    training = {bytes_of(image) for x, _ in state.data.train.batches(0, augment=False) for image in x}
    assert seen
    assert set(seen) <= training
    assert not set(measured) & training


def bytes_of(image):
    return image.contiguous().numpy().tobytes()


def test_stale_norms_are_those_of_the_training(tmp_path):
    data = make_trainer(tmp_path).state.data
    for search, stale in ((faults.stale_norms, True), (faults.sound, False)):
        state = search(make_config(), data)
        norms = [m for m in state.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        for norm in norms:
            norm.running_mean.fill_(7.0)
        state.calibrate(state.derived())
        assert all((norm.running_mean == 7.0).all() for norm in norms) == stale


def test_the_original_goes_on_sampling_from_the_supernet(tmp_path):
    config = make_config(warmup="skip", max_depth=2)
    state = faults.original(config, make_trainer(tmp_path).state.data)
    supernet = state.network
    Trainer(state).run()
    assert state.network is supernet
    assert state.history[-1]["temperature"] == config.temperature_floor
    assert [r["learning_rate"] for r in state.history] == pytest.approx(
        [r["learning_rate"] for r in sound_history(config, state.data)]
    )


def sound_history(config, data):
    state = faults.sound(config, data)
    Trainer(state).run()
    return state.history


def test_a_verdict_is_of_the_search_alone():
    records = [
        {"phase": phase, "accuracy": accuracy, "entropy": entropy, "max_weight": 1 - entropy / 2}
        for phase, accuracy, entropy in [
            ("warmup", 0.1, 2.0),
            ("warmup", 0.4, 2.0),
            ("search", 0.3, 1.5),
            ("growth", 0.5, 1.0),
            ("optimize", 0.05, 0.5),
        ]
    ]
    found = failure_and_fix.verdict(records, "accuracy")
    assert found == failure_and_fix.Verdict(0.4, 0.3, 0.5, 1.0, 0.5)
    assert "(75%)" in str(found)


def test_random_architectures_are_drawn_from_the_whole_space():
    paths = [search_vs_random.drawn(seed, {}) for seed in range(200)]
    counts = torch.bincount(torch.tensor(paths).flatten(), minlength=10)
    assert len(paths[0]) == 6
    assert counts.min() > 70
    assert counts.max() < 170


@pytest.mark.parametrize("element", ["nothing", "boost", "recalibrated norms"])
def test_the_ablation_runs_with_every_kind_of_element(element, monkeypatch):
    tiny = {**TINY, "max_depth": 2, "threads": 1}
    monkeypatch.setattr(ablation, "SHORT", tiny)
    monkeypatch.setitem(planted.SEARCH, "search_epochs", 1)
    monkeypatch.setitem(planted.SEARCH, "growth_epochs", 1)
    monkeypatch.setitem(planted.SEARCH, "depth", 2)
    outcome = ablation.measure(element, 0, "digits", {})
    assert (outcome.recovered is None) == (element == "recalibrated norms")
    assert 0 < outcome.lowest < 3
    assert 0 <= outcome.valid <= 1


def test_the_comparison_with_random_choice_runs_as_a_command(tmp_path):
    tiny = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in TINY.items()]
    out = tmp_path / "out.json"
    command = ["benchmarks.evidence.search_vs_random", "--data", "digits", "--out", str(out), "--set", *tiny]
    result = Command(*command, "--epochs", "1", "--searches", "2", "--random", "0").wait()
    assert result.returncode == 0, result.stderr
    assert "difference" not in json.loads(out.read_text())
    result = Command(*command, "--epochs", "1", "--searches", "2", "--random", "2").wait()  # goes on
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(b"| search |") == 0
    written = json.loads(out.read_text())
    assert [(one["origin"], one["seed"]) for one in written["trained"]] == [
        ("search", 0),
        ("search", 1),
        ("random", 0),
        ("random", 1),
    ]
    assert {"difference", "low", "high", "p"} <= written.keys()
    result = Command(*command, "--epochs", "2").wait()
    assert b"holds results of other settings" in result.stderr


def test_the_difference_is_that_of_the_means_within_its_interval():
    values = {"search": (0.6, 0.7, 0.8), "random": (0.5, 0.6)}
    found = [
        search_vs_random.Trained(origin, seed, ("none",), 1, 1, accuracy)
        for origin, accuracies in values.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    compared = search_vs_random.compared(found)
    assert compared["difference"] == pytest.approx(0.15)
    # Welch: standard error sqrt(0.01 / 3 + 0.005 / 2), 2.88 degrees of freedom, t = 3.26.
    assert compared["high"] - compared["difference"] == pytest.approx(3.26 * 0.0764, rel=0.01)
    assert compared["low"] < 0 < compared["p"]
    assert search_vs_random.compared(found[:3]) == {}


def test_the_supernet_is_compared_with_what_was_trained(tmp_path):
    candidates = make_config().candidates
    known = [
        search_vs_random.Trained("random" if i else "search", i, (candidates[i], candidates[-1]), 1, 1, i / 4)
        for i in range(4)
    ]
    watch = ranking.Measure(known, [2, 3], Table("any"))
    trainer = make_trainer(tmp_path, [watch])
    with pytest.raises(ranking.Done):
        trainer.run()
    assert [found["epoch"] for found in watch.found] == [2, 3]
    last = watch.found[-1]
    assert len(last["measured"]) == 4
    again = ranking.measure(trainer.state, [0, len(candidates) - 1])
    assert again == last["measured"][0]
    assert ranking.correlations(known, [0.1, 0.2, 0.3, 0.4]) == pytest.approx((1.0, 1.0))
    assert ranking.correlations(known, [0.5, 0.3, 0.2, 0.1]) == pytest.approx((-1.0, -1.0))
    assert ranking.correlations(known, [0.9, 0.1, 0.2, 0.3]) == pytest.approx((-0.2, 1.0))


def test_random_architectures_of_another_call_count_and_its_searches_do_not(tmp_path):
    one = search_vs_random.Trained("random", 3, ("none",), 1, 1, 0.5)
    (tmp_path / "a.json").write_text(json.dumps({"trained": [one._asdict(), one._replace(origin="search")._asdict()]}))
    options = argparse.Namespace(random_of=tmp_path / "a.json", add=None, out=None)
    (found,) = search_vs_random.earlier(options)
    assert (found.origin, found.seed) == ("random", 3)


def test_the_table_of_estimators_measures_bias_and_deviation():
    logits, losses = estimators.problem()
    exact = estimators.quality("reinmax", losses["quadratic"], logits, 1.0, draws=20_000)
    biased = estimators.quality("straight_through", losses["quadratic"], logits, 1.5, draws=20_000)
    assert exact.bias < 5 * exact.deviation / 20_000**0.5
    assert biased.bias > 0.3
    assert biased.deviation < exact.deviation


@pytest.mark.parametrize(("name", "parameters"), [("four layers", 242_474), ("small ResNet", 78_042)])
def test_plain_networks_have_the_size_that_they_are_known_by(name, parameters):
    network = plain.NETWORKS[name](3, 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert network(torch.randn(2, 3, 9, 5)).shape == (2, 10)


def test_plain_networks_learn_digits_in_the_seconds_given():
    config = Config(dataset="digits")
    data = load_data(config, config.batch_size, config.seed, torch.device("cpu"))
    found = plain.train("four layers", plain.four_layers, data, config, seconds=1.5)
    assert found.seconds >= 1.5
    assert found.test_accuracy > 0.5
    assert plain.logistic(data, config).test_accuracy > 0.9


def test_a_run_stands_beside_plain_networks(finished):
    found = plain.searched(finished)
    summary = json.loads((finished / "summary.json").read_text())
    assert (found.parameters, found.test_accuracy) == (summary["parameters"], summary["test_accuracy"])
    assert found.seconds == pytest.approx(sum(phase["seconds"] for phase in summary["phases"].values()))
