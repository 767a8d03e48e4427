"""`asose_fast.derive` and `asose_fast.retrain`, as functions and as commands."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

import asose_fast
from asose_fast import derive as derive_module
from asose_fast import retrain as retrain_module
from asose_fast.derive import derive
from asose_fast.engine.alpha.perturbation import losses_without
from asose_fast.engine.retrainer import RetrainConfig, Retrainer
from asose_fast.report import __main__ as report
from asose_fast.space.cost import cost_of, largest_derived
from asose_fast.train import main as train
from tests.helpers import options
from tests.report.runs import Page

SEEDS = {"chain": 0, "stages": 4}
"""The network that is found costs more than the cheapest one."""


@pytest.fixture(scope="module", params=SEEDS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train([*options(space=request.param, seed=SEEDS[request.param]), "--out", str(folder)]) == 0
    return folder


def test_argmax_is_what_the_run_derived(run):
    found = derive(run)
    summary = json.loads((run / "summary.json").read_text())
    assert [block.candidates[0] for block in found.network.spec.blocks] == summary["operations"]
    assert 0 <= found.valid_accuracy <= 1
    assert found.cost == largest_derived(found.network.spec, 8)


def test_a_budget_is_kept_and_one_that_cannot_be_is_refused(run):
    whole = derive(run).cost
    least = derive(run, max_flops=1 << 40).cost
    assert least == whole
    bound = whole.flops - 1
    assert derive(run, max_flops=bound).cost.flops <= bound
    assert derive(run, max_flops=bound, min_flops=bound // 2).cost.flops >= bound // 2
    with pytest.raises(ValueError, match="no network of this space is within min_flops = 1,000,000,000,000"):
        derive(run, min_flops=10**12)
    with pytest.raises(ValueError, match="the least is"):
        derive(run, max_parameters=3)


def test_perturbation_keeps_what_is_missed_most(run):
    found = derive(run, "perturbation")
    assert found.cost == cost_of(found.network.spec, 8)
    assert derive(run, "perturbation").network.spec == found.network.spec


def test_validation_chooses_among_likely_architectures(run):
    found = derive(run, "validation", among=6)
    assert found.valid_accuracy >= derive(run).valid_accuracy
    assert derive(run, "validation", among=6).network.spec == found.network.spec
    bound = derive(run).cost.flops - 1
    assert derive(run, "validation", among=6, max_flops=bound).cost.flops <= bound
    for among, method in ((3, "argmax"), (0, "validation")):
        with pytest.raises(ValueError, match=r"among (is a number of the methods validation|must be at least 1)"):
            derive(run, method, among=among)


@pytest.mark.parametrize("method", ["random", "evolution"])
def test_baselines_keep_the_bounds_and_are_the_same_again(run, method):
    whole = derive(run).cost
    bounds = {"max_flops": whole.flops - 1, "min_flops": whole.flops // 2}
    found = derive(run, method, among=6, **bounds)
    assert bounds["min_flops"] <= found.cost.flops <= bounds["max_flops"]
    assert derive(run, method, among=6, **bounds).network.spec == found.network.spec
    assert found.valid_accuracy >= derive(run, method, among=1, **bounds).valid_accuracy
    with pytest.raises(ValueError, match="no network of this space is within min_flops"):
        derive(run, method, min_flops=10**12)


def test_what_is_lost_without_a_candidate():
    value = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    asked = []

    def accuracy(weights):
        asked.append(weights.clone())
        return float((weights * value).sum())

    probabilities = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    found = losses_without(probabilities, accuracy, seed=0)
    assert found.argmax(1).tolist() == [1, 0]
    # Without k, a row's mean is that of the other two.
    expected = value.mean(1, keepdim=True) - (value.sum(1, keepdim=True) - value) / 2
    torch.testing.assert_close(found, expected + 1e-6 / 3)
    assert len(asked) == 2 * (3 + 1)
    assert torch.equal(probabilities, torch.full((2, 3), 1 / 3, dtype=torch.float64))


def test_the_command_writes_what_load_reads(run, tmp_path, capsys):
    assert derive_module.main([str(run), "--method", "perturbation", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "operations: " in printed
    assert "validation accuracy with the supernet's weights" in printed
    network = asose_fast.load(tmp_path / "out")
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_the_command_derives_by_evolution_into_a_folder_of_its_name(run, capsys):
    assert derive_module.main([str(run), "--method", "evolution", "--among", "5"]) == 0
    assert "written to" in capsys.readouterr().out
    assert asose_fast.load(run / "derived-evolution")(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_a_latency_is_kept_where_it_is_asked_for(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "fast"), "--overwrite"]
    assert derive_module.main([str(run), "--max_latency", "1e6", "--latency_batch", "3", *out]) == 0
    assert " ms (3 images, cpu, 1 thread)" in capsys.readouterr().out
    assert "derive_max_latency: 1000000.0" in (tmp_path / "fast" / "config.yaml").read_text()
    assert derive_module.main([str(run), "--max_latency", "1e-6", *out]) == 2
    assert "error: no network of this space is within max_latency = 1e-06 (the least is" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(run, tmp_path, capsys):
    assert derive_module.main([str(tmp_path / "nowhere")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert derive_module.main([str(run), "--max-flops", "1"]) == 2
    assert "error: no network of this space is within max_flops = 1 (the least is" in capsys.readouterr().err


def test_a_run_that_has_not_ended_is_derived_from_its_newest_checkpoint(tmp_path):
    assert train([*options(limit_train=60), "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "run" / "checkpoints" / "supernet.pt").unlink()
    with pytest.raises(RuntimeError, match="has no supernet any more"):
        derive(tmp_path / "run")


def test_of_candidates_missed_alike_the_more_probable_is_taken_and_an_excluded_one_never():
    probabilities = torch.tensor([[0.5, 0.1, 0.4]], dtype=torch.float64)
    found = losses_without(probabilities, lambda weights: 0.3, seed=0, excluded=[0])
    assert found.argmax(1).tolist() == [2]
    assert found[0, 0] == -2.0


SMALL = ["--epochs=2", "--batch_size=20", "--threads=1"]


def test_retraining_a_run_writes_a_folder_that_load_reads(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert retrain_module.main([str(run), "--out", str(out), *SMALL, "--cutout=2", "--drop-path", "0.1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "test accuracy" in said
    assert "120 training images, the validation images among them (--keep_validation keeps them apart)" in said
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["limit_train"] == 120  # as in the run
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert asose_fast.load(out)(torch.randn(1, 1, 8, 8)).shape == (1, 10)
    assert summary["operations"] == json.loads((run / "genotype.json").read_text())["operations"]
    again = retrain_module.main(
        [str(out / "genotype.json"), "--out", str(tmp_path / "two"), *SMALL, "--limit_train=80"]
    )
    assert again == 0


def test_a_retraining_says_what_its_network_costs(run, tmp_path, capsys):
    out = tmp_path / "again"
    assert retrain_module.main([str(run), "--out", str(out), *SMALL, "--latency_batch=2"]) == 0
    said, summary = capsys.readouterr().out, json.loads((out / "summary.json").read_text())
    network = asose_fast.load(out).spec
    assert (summary["parameters"], summary["flops"]) == cost_of(network, 8)
    assert summary["size"] == (out / "model.safetensors").stat().st_size
    timed = summary["latency"]
    assert (timed["device"], timed["threads"], timed["batch"], timed["predicted"]) == ("cpu", 1, 2, None)
    assert 0 < timed["milliseconds"] <= timed["median"] <= timed["high"]
    costs = (
        f"{summary['parameters']:,} parameters, {summary['flops']:,} FLOPs an image, {summary['size'] / 1000:,.1f} kB"
    )
    assert f"{costs}\nlatency {timed['milliseconds']:.3g} ms (2 images, cpu, 1 thread)\n" in said
    text = Page((out / "report.html").read_text()).text
    assert f"size of the weights {summary['size'] / 1000:,.1f} kB" in text
    assert f"latency, 2 images, cpu, 1 thread {timed['milliseconds']:.3g} ms" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_retraining_is_timed_where_its_run_was_if_that_is_there(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    settings = (copy / "config.yaml").read_text().replace("latency_device: cpu", "latency_device: cuda")
    (copy / "config.yaml").write_text(settings)
    assert retrain_module.main([str(copy), "--out", str(tmp_path / "again"), *SMALL]) == 0
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["latency"] is None
    assert "the latency is not measured: latency_device 'cuda' cannot be used here" in capsys.readouterr().err


def test_a_retraining_has_a_report_of_its_own_and_is_in_that_of_its_run(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert retrain_module.main([str(run), "--out", str(out), *SMALL]) == 0
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert RetrainConfig(**settings).epochs == 2
    summary = json.loads((out / "summary.json").read_text())
    assert summary["images"] == {"train": 120, "test": 40}
    assert summary["flops"] == cost_of(asose_fast.load(out).spec, 8).flops
    own = Page((out / "report.html").read_text()).text
    assert "Training from scratch, out" in own
    assert "test accuracy of the network trained from scratch" in own
    assert "missing" not in own
    assert "epochs 2 100 batch_size 20 96" in own
    assert "digest of the data" in own
    assert f"{out} 2 " in Page((run / "report.html").read_text()).text
    assert report.main([str(run), str(out), "--out", str(tmp_path / "both.html")]) == 0
    assert "points [" in Page((tmp_path / "both.html").read_text()).text
    (run / "report.html").write_text("mine")
    capsys.readouterr()
    assert retrain_module.main([str(run), "--out", str(out), *SMALL]) == 0
    assert "the report of" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "mine"
    (run / "report.html").unlink()


def test_a_retraining_that_is_stopped_has_its_settings_and_a_report(run, tmp_path, monkeypatch):
    step = Retrainer._step

    def stop(self, phase, x, y):
        step(self, phase, x, y)
        if self.state.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Retrainer, "_step", stop)
    out = tmp_path / "out"
    assert retrain_module.main([str(run), "--out", str(out), *SMALL]) == 128 + signal.SIGTERM
    text = Page((out / "report.html").read_text()).text
    assert "Training from scratch" in text
    assert "Not finished: 1 of 2 epochs" in text
    assert "missing" not in text


def test_an_option_that_is_given_holds_though_it_is_the_default(run, tmp_path):
    out = tmp_path / "out"
    assert retrain_module.main([str(run), "--out", str(out), *SMALL, "--limit_train=null", "--limit_test=20"]) == 0
    settings = json.loads((out / "summary.json").read_text())["settings"]
    assert settings["limit_train"] is None  # the run has 120
    assert settings["limit_test"] == 20


def test_retraining_needs_a_batch_of_the_images_that_it_trains_on_and_of_no_others(run, tmp_path, capsys):
    """Of the run's 120 images 30 are validation images."""
    images = ["--epochs=1", "--batch_size=96", "--threads=1"]
    assert retrain_module.main([str(run), "--out", str(tmp_path / "all"), *images]) == 0
    out = tmp_path / "kept"
    assert retrain_module.main([str(run), "--out", str(out), *images, "--keep_validation"]) == 2
    assert "digits leaves 90 training images, fewer than one batch of 96" in capsys.readouterr().err
    assert not out.exists()
    assert retrain_module.main([str(run), "--out", str(out), *images, "--keep_validation", "--batch_size=90"]) == 0
    assert 0 <= json.loads((out / "summary.json").read_text())["valid_accuracy"] <= 1


def test_what_was_derived_is_retrained_on_the_data_of_its_run(run, tmp_path):
    assert derive_module.main([str(run), "--out", str(tmp_path / "derived")]) == 0
    out = tmp_path / "out"
    assert retrain_module.main([str(tmp_path / "derived"), "--out", str(out), *SMALL]) == 0
    assert json.loads((out / "summary.json").read_text())["settings"]["limit_train"] == 120


def test_a_run_is_retrained_by_the_recipe_of_its_last_phase_unless_options_say_otherwise(tmp_path):
    recipe = {"learning_rate": 0.1, "optimize_weight_decay": 1e-3, "nesterov": True, "cutmix": 1.0, "ema_decay": 0.9}
    assert train([*options(**recipe, optimize_learning_rate=0.05), "--out", str(tmp_path / "run")]) == 0
    words = ["--epochs=1", "--momentum=0.8", "--out", str(tmp_path / "again")]
    assert retrain_module.main([str(tmp_path / "run"), *words]) == 0
    settings = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    run = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (settings["learning_rate"], settings["weight_decay"], settings["momentum"]) == (0.05, 1e-3, 0.8)
    assert (settings["nesterov"], settings["cutmix"], settings["ema_decay"]) == (True, 1.0, 0.9)
    assert settings["batch_size"] == run["batch_size"]


def test_a_finished_retraining_goes_no_further_and_other_settings_are_refused(run, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert retrain_module.main([str(run), "--out", out, *SMALL]) == 0
    assert retrain_module.main([str(run), "--out", out, *SMALL]) == 0
    assert "going on after 2 of 2 epochs" in capsys.readouterr().out
    assert retrain_module.main([str(run), "--out", out, *SMALL, "--seed=5"]) == 2
    assert "begun with other settings" in capsys.readouterr().err


def test_a_retraining_that_is_told_to_stop_says_how_it_goes_on(run, tmp_path, monkeypatch, capsys):
    step = Retrainer._step

    def interrupted(self, phase, x, y):
        step(self, phase, x, y)
        if (self.state.progress.epoch, self.state.progress.step) == (0, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    command = [str(run), "--out", str(tmp_path / "out"), *SMALL]
    with monkeypatch.context() as patched:
        patched.setattr(Retrainer, "_step", interrupted)
        assert retrain_module.main(command) == 128 + signal.SIGTERM
    said = " ".join(capsys.readouterr().out.split())
    assert "stopped by SIGTERM in phase retrain, epoch 1 of" in said
    assert f"the same command with --out {tmp_path / 'out'} goes on from there" in said
    assert retrain_module.main(command) == 0
    assert "going on after 0 of" in capsys.readouterr().out
    assert retrain_module.main([str(run), "--out", str(tmp_path / "whole"), *SMALL]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


def test_retraining_says_what_is_wrong(tmp_path, capsys):
    assert retrain_module.main([str(tmp_path / "model.bin")]) == 2
    assert "neither a run folder nor a genotype.json" in capsys.readouterr().err
    assert retrain_module.main([str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_retraining_under_torchrun_is_refused(run, tmp_path, monkeypatch, capsys):
    """Every process would train a network of its own, into one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert retrain_module.main([str(run), "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert "retraining runs in one process, and torchrun has started 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
