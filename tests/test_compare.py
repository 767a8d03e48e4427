"""`asose-fast compare`: what it trains, keeps, says and refuses, and how it goes on."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from asose_fast import alike, compare
from asose_fast.engine.comparison import record, training
from asose_fast.engine.retrainer import Retrainer
from asose_fast.export.__main__ import main as export
from asose_fast.report.intervals import of_share
from asose_fast.report.run import read
from asose_fast.space.cost import cost_of
from asose_fast.store.derived import load, load_genotype
from asose_fast.train import main as train
from tests.helpers import contents, options, refused
from tests.report.runs import Page

SPACE = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
QUICK = ["--random", "2", "--epochs", "2"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished run with networks of one size to choose from; not to be changed."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    assert train([*options(candidates=SPACE, depth=3, optimize_epochs=6, threads=1), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def compared(searched, tmp_path_factory):
    """The same with a comparison."""
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("compared") / "run"))
    assert compare.main([str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def run(searched, tmp_path):
    return Path(shutil.copytree(searched, tmp_path / "run"))


def results(folder):
    """What was trained, without the times."""
    kept = json.loads((folder / "compare.json").read_text())
    for network in kept["networks"]:
        del network["seconds"], network["latency"], network["latency_high"]
    return kept


def weights(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/model.safetensors")}


def begins_anew(run, monkeypatch, *words):
    """With --overwrite, nothing is left of the earlier comparison when the first training begins."""
    monkeypatch.setattr(alike, "train", lambda *_: pytest.fail("Training!"))
    with pytest.raises(pytest.fail.Exception, match="Training!"):
        compare.main([str(run), *words, "--overwrite"])
    assert [*contents(run / "compare")] == [Path("compare.json")]
    assert record.load(run / "compare").networks == []


def test_found_plain_and_random_networks_are_trained_and_kept(compared, tmp_path):
    kept = record.load(compared / "compare")
    assert [network.name for network in kept.networks] == ["found", "plain", "random-1", "random-2"]
    assert kept.networks[0].network == load_genotype(compared).network.to_dict() == kept.found
    assert (kept.images, kept.test_images, kept.epochs) == (120, 40, 2)
    own = kept.networks[0]
    for network in kept.networks:
        genotype = load_genotype(compared / "compare" / network.name)
        assert genotype.network.to_dict() == network.network
        assert (network.parameters, network.flops) == cost_of(genotype.network, 8)
        assert load(compared / "compare" / network.name).operations == tuple(network.operations)
        assert network.size == (compared / "compare" / network.name / "model.safetensors").stat().st_size
        assert 0 < network.latency <= network.latency_high
        if network.name.startswith("random"):
            assert abs(network.parameters / own.parameters - 1) <= kept.band.parameters
            assert abs(network.flops / own.flops - 1) <= kept.band.flops
    config = yaml.safe_load((compared / "config.yaml").read_text())
    shared = ("learning_rate", "momentum", "batch_size", "threads", "device", "dataset", "seed")
    assert {name: kept.settings[name] for name in shared} == {name: config[name] for name in shared}
    assert export([str(compared / "compare" / "plain"), "--format", "pt2", "--out", str(tmp_path / "plain.pt2")]) == 0


def test_report_and_summary_say_what_came_out(compared):
    sentences = record.load(compared / "compare").sentences
    assert json.loads((compared / "summary.json").read_text())["comparison"] == sentences
    assert json.loads((compared / "compare" / "compare.json").read_text())["says"] == sentences
    page = (compared / "report.html").read_text()
    assert all(sentence[1:] in page for sentence in sentences)
    assert read(compared).problems == []


def test_every_network_has_a_row_of_accuracy_and_costs_in_summary_and_report(compared):
    kept = record.load(compared / "compare")
    summary = json.loads((compared / "summary.json").read_text())
    rows = summary["comparison_networks"]
    assert [row["name"] for row in rows] == ["found", "plain", "random-1", "random-2"]
    text = Page((compared / "report.html").read_text()).text
    for row, network in zip(rows, kept.networks, strict=True):
        low, high = row["interval"]
        assert (low, high) == of_share(network.test_accuracy, 40)
        assert (row["parameters"], row["flops"], row["size"]) == (network.parameters, network.flops, network.size)
        latency = {"milliseconds": network.latency / 1e6, "high": network.latency_high / 1e6}
        assert row["latency"] == {"device": "cpu", "threads": 1, "batch": 1, **latency}
        assert (
            f"{row['name']} {100 * network.test_accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}] "
            f"{network.parameters:,} {network.flops / 1e6:.2f} {network.size / 1000:,.1f} "
            f"{network.latency / 1e6:.3g} to {network.latency_high / 1e6:.3g} "
        ) in text
    assert "Latency is of 1 image, cpu, 1 thread" in text
    assert summary["size"] == (compared / "model.safetensors").stat().st_size
    assert f"size of the weights {summary['size'] / 1000:,.1f} kB" in text


def test_the_console_has_the_same_rows(compared, capsys):
    assert compare.main([str(compared), *QUICK]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = record.load(compared / "compare").networks[0]
    assert ["network", "test", "parameters", "MFLOPs", "kB", "ms", "seconds", "operations"] in lines
    (row,) = [line for line in lines if line[0] == "found" and line[1] != "network"]
    low, high = (f"{nanoseconds / 1e6:.3g}" for nanoseconds in (found.latency, found.latency_high))
    size = f"{found.size / 1000:,.1f}"
    assert row[5:11] == [f"{found.parameters:,}", f"{found.flops / 1e6:.2f}", size, low, "to", high]


def change(run, function):
    """Has `function` change what compare.json holds."""
    path = run / "compare" / "compare.json"
    kept = json.loads(path.read_text())
    function(kept)
    path.write_text(json.dumps(kept))


def older(kept):
    """Makes a comparison that of a release which measured neither size nor latency."""
    for name in ("latency_device", "latency_threads", "latency_batch"):
        del kept["settings"][name]
    for network in kept["networks"]:
        del network["size"], network["latency"], network["latency_high"]


def test_a_comparison_of_an_older_release_has_gaps_until_it_goes_on(compared, tmp_path, capsys, monkeypatch):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    change(run, older)
    assert {(one.size, one.latency) for one in read(run).comparison.networks} == {(None, None)}
    monkeypatch.setattr(Retrainer, "run", lambda self: pytest.fail("a network is trained again"))
    assert compare.main([str(run), *QUICK]) == 0
    assert results(run / "compare") == results(compared / "compare")
    assert all(0 < one.latency <= one.latency_high for one in record.load(run / "compare").networks)
    rows = json.loads((run / "summary.json").read_text())["comparison_networks"]
    assert all(row["size"] and row["latency"] for row in rows)


def test_a_size_whose_weights_are_gone_stays_a_gap(compared, tmp_path):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    change(run, older)
    (run / "compare" / "plain" / "model.safetensors").unlink()
    assert compare.main([str(run), *QUICK]) == 0
    assert [one.name for one in record.load(run / "compare").networks if one.size is None] == ["plain"]


def test_where_latencies_were_measured_may_stand_beside_the_settings(compared, tmp_path):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    change(run, older)
    change(run, lambda kept: kept.update(target={"device": "cuda", "threads": 3, "batch": 2}))
    assert record.load(run / "compare").target == ("cuda", 3, 2)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("latency_device", "tpu", "latency_device must be one of cpu, cuda, got 'tpu'"),
        ("latency_threads", 0, "latency_threads must be at least 1, at most 1024 and whole, got 0"),
        ("latency_batch", "many", "latency_batch must be at least 1, at most 1000000 and whole, got 'many'"),
    ],
)
def test_a_place_of_latencies_that_is_none_is_one_error(compared, tmp_path, capsys, setting, value, said):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    change(run, lambda kept: kept["settings"].update({setting: value}))
    assert f"compare.json is damaged: {said}" in refused(capsys, compare.main, run, *QUICK)
    (problem,) = read(run).problems
    assert problem == f"the comparison cannot be read: {run}/compare/compare.json is damaged: {said}"


def test_stopped_while_a_latency_is_measured_it_says_how_it_goes_on(run, compared, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "network_latency", stopped)
        assert compare.main([str(run), *QUICK]) == 130
    assert "stopped by SIGINT; the same command goes on from there" in capsys.readouterr().out
    assert record.load(run / "compare").networks == []
    monkeypatch.setattr(alike, "seconds_per_epoch", lambda *_: 1.0)
    monkeypatch.setattr(Retrainer, "_step", lambda *_: pytest.fail("Training!"))
    with pytest.raises(pytest.fail.Exception, match="Training!"):  # of the next one
        compare.main([str(run), *QUICK])
    assert [one.name for one in record.load(run / "compare").networks] == ["found"]


def test_where_the_device_of_the_latency_is_not_there_the_networks_have_none(run, capsys):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("latency_device: cpu", "latency_device: cuda"))
    assert compare.main([str(run), *QUICK]) == 0
    kept = record.load(run / "compare")
    assert {network.latency for network in kept.networks} == {None}
    assert all(network.size > 0 for network in kept.networks)
    assert "the latency of found is not measured: latency_device 'cuda' cannot be used here" in capsys.readouterr().err


def test_the_same_command_trains_nothing_again_and_a_larger_one_goes_on(compared, tmp_path, capsys, monkeypatch):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    before = contents(run / "compare")
    with monkeypatch.context() as patch:
        patch.setattr(Retrainer, "run", lambda self: pytest.fail("a network is trained again"))
        patch.setattr(training, "network_latency", lambda *_: pytest.fail("a network is timed again"))
        assert compare.main([str(run), *QUICK]) == 0
    assert contents(run / "compare") == before
    said = capsys.readouterr().out
    assert "all are trained already" in said
    assert record.load(run / "compare").sentences[0] in said
    assert compare.main([str(run), "--random", "3", "--epochs", "2"]) == 0
    after = results(run / "compare")
    assert after["networks"][:4] == results(compared / "compare")["networks"]
    assert [network["name"] for network in after["networks"][4:]] == ["random-3"]
    assert compare.main([str(run), *QUICK]) == 0  # which are fewer than there are
    assert results(run / "compare") == after


def test_a_page_that_is_no_report_and_a_damaged_summary_stay(compared, tmp_path, capsys):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    (run / "report.html").write_text("my own")
    (run / "summary.json").write_text("[1]")
    before = contents(run)
    assert compare.main([str(run), *QUICK]) == 0
    said = capsys.readouterr().err
    assert "the report of the run is not written" in said
    assert "the summary of the run does not say it" in said
    assert contents(run) == before


def test_in_another_folder_it_leaves_the_run_as_it_was(compared, tmp_path, monkeypatch):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    shutil.move(run / "compare", tmp_path / "out")
    before = contents(run)
    monkeypatch.setattr(Retrainer, "run", lambda self: pytest.fail("a network is trained again"))
    assert compare.main([str(run), *QUICK, "--out", str(tmp_path / "out")]) == 0
    assert contents(run) == before


@pytest.mark.parametrize("stop", [3, 16])
def test_an_interrupted_comparison_ends_as_an_undisturbed_one(run, compared, monkeypatch, capsys, stop):
    """Six steps are an epoch: it stops in the first network, and in the second."""
    step, done = Retrainer._step, []

    def stopped(self, *arguments):
        step(self, *arguments)
        if self.checkpoints:  # it is not only timed
            done.append(None)
        if self.checkpoints and len(done) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Retrainer, "_step", stopped)
    assert compare.main([str(run), *QUICK]) == 130
    assert "stopped by SIGINT" in capsys.readouterr().out
    kept = results(run / "compare")
    assert [network["name"] for network in kept["networks"]] == ["found"][: stop // 12]
    assert kept["says"] == []
    assert compare.main([str(run), *QUICK]) == 0
    assert results(run / "compare") == results(compared / "compare")
    assert weights(run / "compare") == weights(compared / "compare")


def test_the_time_is_said_before_it_is_spent(run, capsys, monkeypatch):
    monkeypatch.setattr(alike, "seconds_per_epoch", lambda *_: 30.0)
    monkeypatch.setattr(alike, "train", lambda *_: pytest.fail("Training!"))
    with pytest.raises(pytest.fail.Exception, match="Training!"):
        compare.main([str(run), "--random", "3"])
    said = capsys.readouterr().out
    assert "5 networks are trained from scratch alike, each on 120 images for 2 epochs" in said  # 2 is a third of 6
    assert "5 are left, which take about 5:00" in said


def test_epochs_fit_into_the_seconds_and_stay_what_they_were(run, monkeypatch):
    monkeypatch.setattr(compare, "plain_network", lambda *_: load_genotype(run).network)
    monkeypatch.setattr(alike, "train", lambda *_: pytest.fail("Training!"))
    for given, seconds, epochs in (
        (["--seconds", "1"], 30, 1),
        (["--seconds", "1e6", "--overwrite"], 30, 6),  # those of the run at most
        (["--seconds", "250", "--overwrite"], 30, 2),  # of 4 networks
        (["--seconds", "250"], 10, 2),
    ):
        monkeypatch.setattr(alike, "seconds_per_epoch", lambda *_, seconds=seconds: seconds)
        with pytest.raises(pytest.fail.Exception, match="Training!"):
            compare.main([str(run), "--random", "2", *given])
        assert record.load(run / "compare").epochs == epochs


def test_a_comparison_with_other_settings_is_refused_unless_it_may_go(compared, tmp_path, capsys, monkeypatch):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    before = contents(run)
    error = refused(capsys, compare.main, run, "--random", 2, "--epochs", 3)
    assert "holds another comparison: epochs 2 there, 3 here. Give the same options, another --out" in error
    error = refused(capsys, compare.main, run, *QUICK, "--seed", 5)
    assert "seed 0 there, 5 here" in error
    assert "where 1000 are asked for" in refused(capsys, compare.main, run, "--random", 1000, "--overwrite")
    assert contents(run) == before
    begins_anew(run, monkeypatch, "--random", "2", "--epochs", "3")


def test_what_cannot_be_compared_is_refused_before_anything_is_written(run, tmp_path, capsys):
    before = contents(run)
    for out in (run, f"{run}/../run/"):
        assert f"--out {Path(out)} is the run itself" in refused(capsys, compare.main, run, "--out", out, "--overwrite")
    assert "checkpoints is not empty" in refused(capsys, compare.main, run, "--out", run / "checkpoints", "--overwrite")
    assert "only" in (error := refused(capsys, compare.main, run, "--random", 1000))
    assert "random networks are within 40 % in parameters and 20 % in FLOPs, where 1000 are asked for" in error
    for words, said in (
        (["--random", "1"], "--random must be at least 2"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seconds", "nan"], "--seconds must be above 0"),
        (["--epochs", "1", "--seconds", "1"], "--epochs and --seconds say in two ways how long a training is"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--dataset", "cifar10"], "cifar10 are other images"),
    ):
        assert said in refused(capsys, compare.main, run, *words)
    assert contents(run) == before
    assert not (run / "compare").exists()
    (run / "config.yaml").write_text("dataset: digits\n")
    assert "config.yaml is not that of a search" in refused(capsys, compare.main, run)
    (run / "genotype.json").unlink()
    assert "holds no finished run" in refused(capsys, compare.main, run)


def test_a_damaged_comparison_is_named_and_may_be_begun_anew(compared, tmp_path, capsys, monkeypatch):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    for content in (
        "{",
        "[]",
        '{"networks": []}',
        (run / "compare" / "compare.json").read_text().replace("plain", "odd"),
    ):
        (run / "compare" / "compare.json").write_text(content)
        assert "compare.json is damaged" in refused(capsys, compare.main, run, *QUICK)
    begins_anew(run, monkeypatch, *QUICK)


def test_a_run_that_is_replaced_takes_its_comparison_with_it(compared, tmp_path):
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    assert train([*options(candidates=SPACE, depth=3, threads=1), "--out", str(run), "--overwrite"]) == 0
    assert not [path for path in contents(run / "compare")]


def test_cells_are_refused(tmp_path, capsys):
    words = options(space="nasbench201", cells=1, candidates=(), threads=1)
    assert train([*words, "--out", str(tmp_path / "run")]) == 0
    assert "holds a network of cells, and compare is for the spaces chain, stages and mobile" in refused(
        capsys, compare.main, tmp_path / "run"
    )
