"""`asose-fast front`: which networks it chooses, what it keeps, says and refuses, and how it goes on."""

import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from asose_fast import alike, front
from asose_fast.engine.comparison import training
from asose_fast.engine.comparison.networks import pruned_blocks
from asose_fast.engine.comparison.trained import Trained
from asose_fast.engine.front import networks as choosing
from asose_fast.engine.front import record
from asose_fast.engine.front.networks import Supernet, networks
from asose_fast.engine.retrainer import Retrainer
from asose_fast.export.__main__ import main as export
from asose_fast.report import page, svg
from asose_fast.report.run import read
from asose_fast.space import NetworkSpec
from asose_fast.space.cost import candidate_costs, cost_of
from asose_fast.space.latency import Latencies, Target, Timing
from asose_fast.store.derived import load, load_genotype
from asose_fast.train import main as train
from tests.helpers import contents, make_config, options
from tests.report.runs import Page

SPACE = ("skip_connect", "sep_conv_3x3", "nor_conv_3x3", "res_conv_3x3")
QUICK = ["--epochs", "1", "--widths", "1", "0.5", "--points", "2"]
SIZE = 16


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    assert train([*options(candidates=SPACE, depth=3, optimize_epochs=3, threads=1), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def fronted(searched, tmp_path_factory):
    """The same with a front; not to be changed."""
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("fronted") / "run"))
    assert front.main([str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def run(fronted, tmp_path):
    return Path(shutil.copytree(fronted, tmp_path / "run"))


def results(folder):
    """What was trained, without the times."""
    kept = json.loads((folder / "front.json").read_text())
    for network in kept["networks"]:
        del network["seconds"], network["latency"], network["latency_high"]
    return {**kept, "says": None}


def space():
    """A supernet of four blocks, with scores that prefer dear candidates in some."""
    spec = NetworkSpec.chain(make_config(candidates=SPACE, depth=4, channels=8), 3, 10)
    scores = torch.randn(4, len(SPACE), generator=torch.Generator().manual_seed(3)).log_softmax(1)
    return Supernet(spec, scores), pruned_blocks(spec.derive(scores.argmax(1).tolist()))


@pytest.mark.parametrize("by", ["flops", "parameters"])
def test_each_network_is_the_most_probable_one_of_its_cost(by):
    """Beside all paths, counted one by one."""
    supernet, found = space()
    costs = candidate_costs(supernet.spec, SIZE)
    table, fixed = getattr(costs, by), getattr(costs.fixed, by)
    paths = [list(path) for path in itertools.product(range(len(SPACE)), repeat=4)]
    rows = torch.arange(4)
    priced = [(fixed + int(table[rows, torch.tensor(p)].sum()), p) for p in paths]
    low = min(cost for cost, _ in priced)
    high = fixed + int(table[rows, supernet.scores.argmax(1)].sum())
    expected = {found}
    for i in range(5):
        bound = round(low * (high / low) ** (i / 4))
        likeliest = max(
            (p for cost, p in priced if cost <= bound),
            key=lambda p: float(supernet.scores[rows, torch.tensor(p)].double().sum()),
        )
        expected.add(pruned_blocks(supernet.spec.derive(likeliest)))
    chosen = networks(supernet, found, SIZE, by, [1.0], 5, Target())
    assert {*chosen} == expected
    assert len(chosen) >= 4
    assert [cost_of(one, SIZE).flops for one in chosen] == sorted(
        (cost_of(n, SIZE).flops for n in chosen), reverse=True
    )


def test_widths_are_shares_of_the_channels_and_the_found_network_is_always_there():
    supernet, found = space()
    chosen = networks(supernet, found, SIZE, "flops", [0.5, 0.25], 2, Target())
    assert chosen[0] == found
    assert {one.stem_channels for one in chosen[1:]} == {4, 2}


def test_latencies_bound_where_they_are_asked_for(monkeypatch):
    """By latencies in which a skip is the dearest, the cheap networks are those without."""
    supernet, _ = space()
    slow, fast = Timing(10_000, 10_000, 10_000), Timing(100, 100, 100)
    monkeypatch.setattr(
        choosing, "candidate_latencies", lambda *_: Latencies(((slow, fast, fast, fast),) * 4, Timing(4000, 4000, 4000))
    )
    chosen = networks(supernet, supernet.spec.derive([0, 0, 0, 0]), SIZE, "latency", [1.0], 2, Target())
    cheap = supernet.scores.clone()
    cheap[:, 0] = -torch.inf
    assert pruned_blocks(supernet.spec.derive(cheap.argmax(1).tolist())) in chosen


def test_networks_are_trained_kept_and_can_be_exported(fronted, tmp_path):
    kept = record.load(fronted / "front")
    assert [one.name for one in kept.networks] == [f"network-{i + 1}" for i in range(len(kept.specs))]
    assert kept.specs[0] == load_genotype(fronted).network.to_dict()
    assert (kept.images, kept.test_images, kept.epochs, kept.by) == (120, 40, 1, "flops")
    for one in kept.networks:
        folder = fronted / "front" / one.name
        assert load_genotype(folder).network.to_dict() == one.network
        assert (one.parameters, one.flops) == cost_of(load_genotype(folder).network, 8)
        assert load(folder).operations == tuple(one.operations)
        assert one.size == (folder / "model.safetensors").stat().st_size
        assert 0 < one.latency <= one.latency_high
    last = str(fronted / "front" / kept.networks[-1].name)
    assert export([last, "--format", "pt2", "--out", str(tmp_path / "last.pt2")]) == 0


def test_no_network_of_the_front_is_beaten():
    def point(name, flops, accuracy):
        return Trained(name, {"blocks": []}, 1, flops, 1.0, accuracy)

    points = [point("a", 9, 0.9), point("b", 5, 0.7), point("c", 5, 0.8), point("d", 4, 0.8), point("e", 1, 0.2)]
    whole = record.Front(
        settings={}, data="", images=1, test_images=1, by="flops", drawn={}, specs=[{}] * 5, networks=points
    )
    assert [one.name for one in whole.best] == ["e", "d", "a"]
    assert whole.sentences[0].startswith("3 networks are on the front of test accuracy and MFLOPs: e 20.0 % at")


def test_report_and_summary_say_what_came_out(fronted):
    sentences = record.load(fronted / "front").sentences
    assert json.loads((fronted / "summary.json").read_text())["front"] == sentences
    html = (fronted / "report.html").read_text()
    assert all(sentence[1:] in html for sentence in sentences)
    assert "Several networks of this search" in html
    assert "Accuracy over MFLOPs" in html
    assert read(fronted).problems == []


def test_an_interrupted_front_ends_as_an_undisturbed_one(searched, fronted, tmp_path, monkeypatch):
    """Six steps are an epoch: it stops in the second network."""
    run = Path(shutil.copytree(searched, tmp_path / "run"))
    step, done = Retrainer._step, []

    def stopped(self, *arguments):
        step(self, *arguments)
        if self.checkpoints:  # it is not only timed
            done.append(None)
        if self.checkpoints and len(done) == 9:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Retrainer, "_step", stopped)
    assert front.main([str(run), *QUICK]) == 130
    assert len(results(run / "front")["networks"]) == 1
    assert front.main([str(run), *QUICK]) == 0
    assert results(run / "front") == results(fronted / "front")


def test_a_front_by_latency_keeps_what_it_has_where_one_cannot_be_measured(searched, tmp_path, capsys, monkeypatch):
    run, measure, measured = Path(shutil.copytree(searched, tmp_path / "run")), training.network_latency, []

    def once(*arguments):
        if measured:
            raise ValueError("latency_device is gone")
        measured.append(None)
        return measure(*arguments)

    words = [str(run), *QUICK, "--by", "latency"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "network_latency", once)
        assert front.main(words) == 2
    assert "a front by latency needs that of network-2; the same command measures it" in capsys.readouterr().err
    assert len(record.load(run / "front").networks) == 1
    assert front.main(words) == 0
    assert all(network.latency for network in record.load(run / "front").networks)


def test_the_same_command_trains_nothing_again(run, capsys, monkeypatch):
    before = contents(run / "front")
    monkeypatch.setattr(Retrainer, "run", lambda self: pytest.fail("a network is trained again"))
    assert front.main([str(run), *QUICK]) == 0
    assert contents(run / "front") == before
    assert "all are trained already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--points", "3"], "its networks are others"),
        (["--widths", "0.5"], "its networks are others"),
        (["--by", "parameters"], "its networks are others"),
        (["--epochs", "2"], "epochs"),
    ],
)
def test_another_front_in_the_folder_is_refused_unless_it_may_go(run, more, said, capsys, monkeypatch):
    before = contents(run)
    assert front.main([str(run), *QUICK, *more]) == 2
    assert said in capsys.readouterr().err
    assert contents(run) == before
    monkeypatch.setattr(alike, "train", lambda *_: pytest.fail("Training!"))
    with pytest.raises(pytest.fail.Exception, match="Training!"):
        front.main([str(run), *QUICK, *more, "--overwrite"])
    assert [*contents(run / "front")] == [Path("front.json")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--widths", "0"], "--widths must be above 0"),
        (["--points", "1"], "--points must be at least 2"),
        (["--epochs", "1", "--seconds", "2"], "in two ways"),
    ],
)
def test_bad_options_are_named(words, said, capsys):
    assert front.main(["run", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_its_supernet_is_refused(searched, tmp_path, capsys):
    run = Path(shutil.copytree(searched, tmp_path / "run"))
    (run / "checkpoints" / "supernet.pt").unlink()
    assert front.main([str(run), *QUICK]) == 2
    assert "supernet.pt" in capsys.readouterr().err


def test_a_front_of_an_older_release_has_gaps_unless_it_goes_by_latency(run):
    path = run / "front" / "front.json"
    kept = json.loads(path.read_text())
    for network in kept["networks"]:
        del network["size"], network["latency_high"]
    path.write_text(json.dumps(kept))
    first = record.load(run / "front").networks[0]
    text = Page(page.render(read(run))).text
    assert f"{first.flops / 1e6:.2f} {svg.NONE} {first.latency / 1e6:.3g} " in text
    for network in kept["networks"]:
        del network["latency"]
    path.write_text(json.dumps(kept))
    assert record.load(run / "front").best
    path.write_text(json.dumps({**kept, "by": "latency"}))
    with pytest.raises(ValueError, match="latency must have a value"):
        record.load(run / "front")


def test_a_damaged_front_is_named(run, capsys):
    path = run / "front" / "front.json"
    path.write_text(path.read_text().replace("network-1", "odd"))
    assert front.main([str(run), *QUICK]) == 2
    assert "front.json is damaged" in capsys.readouterr().err
    assert "the front cannot be read" in read(run).problems[0]
