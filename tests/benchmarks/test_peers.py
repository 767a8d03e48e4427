"""Beside other implementations: what needs no checkout of one. Our own network is theirs here."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch
from torch import nn

from asose_fast.config import SpaceConfig
from asose_fast.space.cells import CellNetwork, CellNetworkSpec
from benchmarks import record
from benchmarks.peers import __main__ as program
from benchmarks.peers import settings
from benchmarks.peers.agreement import Agreement
from benchmarks.peers.confopt import Confopt, stand_ins
from benchmarks.peers.ours import Ours, load
from benchmarks.peers.peer import Peer, Size
from benchmarks.peers.quark0 import Quark0
from benchmarks.peers.variants import seeded, variants_of

SIZE = Size(batch=2, channels=4, cells=3)


def network(size=SIZE):
    return CellNetwork(
        CellNetworkSpec.supernet(SpaceConfig(space="darts", channels=size.channels, cells=size.cells), 3, 10)
    )


def module(**parts):
    """A module that has parts of these names."""
    whole = nn.Module()
    for name, part in parts.items():
        whole.add_module(name, part)
    return whole


class Alike(Peer):
    """Our network under the names of theirs, of which an edge always computes all candidates."""

    name, mark, algorithms = "alike", "alike", ("darts", "gdas")

    @staticmethod
    def modules(path):
        return contextlib.nullcontext()

    def build(self, modules, layout, size):
        self.supernet = network(size)
        cells = [module(preprocess0=c.before, preprocess1=c.last, _ops=c.ops) for c in self.supernet.cells]
        self.network = module(stem=self.supernet.stem, cells=nn.ModuleList(cells), classifier=self.supernet.head[-1])
        self.alpha = [torch.randn(14, 8, requires_grad=True) for _ in range(2)]

    def loss(self):
        """The loss, and the architecture weights that it is of."""
        drawn = [a.softmax(1) if self.algorithm == "darts" else sample(a) for a in self.alpha]
        path = None if self.algorithm == "darts" else torch.cat(drawn).argmax(1).tolist()
        kept = path and [(i,) for i in path]
        return nn.functional.cross_entropy(self.supernet(self.x, torch.cat(drawn), path, kept), self.y), drawn

    def step(self):
        loss, _ = self.loss()
        if self.algorithm == "darts":  # a one-hot sample does not tell how far alpha has moved
            torch.autograd.backward(loss, inputs=self.alpha)
            torch.optim.Adam(
                self.alpha, settings.ALPHA_RATE, settings.ALPHA_BETAS, weight_decay=settings.ALPHA_DECAY
            ).step()
        weights = list(self.weights())
        torch.autograd.backward(self.loss()[0], inputs=weights)
        nn.utils.clip_grad_norm_(weights, settings.CLIP)
        torch.optim.SGD(weights, settings.RATE, settings.MOMENTUM, weight_decay=settings.DECAY).step()

    def gradients(self):
        loss, drawn = self.loss()
        if self.algorithm == "darts":
            return loss.detach(), torch.cat(torch.autograd.grad(loss, self.alpha))
        return loss.detach(), torch.cat(torch.autograd.grad(loss, drawn))[torch.cat(drawn) == 1][:, None]

    def candidates(self, edge):
        return edge.ops.values()

    def weights(self):
        return self.supernet.parameters()


def sample(alpha):
    """One-hot weights, drawn as confopt does."""
    noise = -torch.empty_like(alpha).exponential_().log()
    index = (alpha.detach() + noise).argmax(1, keepdim=True)
    return torch.zeros_like(alpha).scatter(1, index, 1.0).requires_grad_()


def alike(algorithm="darts", size=SIZE):
    return Alike(None, "nchw", size, algorithm)


def ours(algorithm):
    return Ours(alike(), SIZE, algorithm)


@pytest.mark.parametrize("algorithm", ["darts", "gdas"])
def test_the_same_network_agrees(algorithm):
    theirs = alike(algorithm)
    agreement = Agreement.of(theirs, Ours(theirs, SIZE, algorithm))
    assert agreement.is_close(), agreement
    assert 1 < agreement.theirs < 10


@pytest.mark.parametrize("part", ["loss", "gradient", "step"])
def test_other_work_is_told_apart(part):
    theirs = alike()
    mine = Ours(theirs, SIZE, "darts")
    if part == "loss":
        theirs.y = (theirs.y + 1) % 10
    elif part == "gradient":
        gradients = theirs.gradients
        theirs.gradients = lambda: (gradients()[0], 1.001 * gradients()[1])
    else:
        theirs.step = lambda: None
    assert not Agreement.of(theirs, mine).is_close()


@pytest.mark.parametrize("change", [{"channels": 8}, {"cells": 4}])
def test_other_networks_are_refused(change):
    with pytest.raises(ValueError, match=r"parameter|argument"):
        load(alike(size=SIZE._replace(**change)), network())


def test_a_parameter_that_was_not_copied_is_found():
    theirs = alike()
    theirs.weights = lambda: [*theirs.supernet.parameters(), torch.zeros(1)]
    with pytest.raises(ValueError, match="the same parameters"):
        load(theirs, network())


def test_gdas_runs_one_candidate_an_edge():
    mine = ours("gdas")
    draw = mine._draw()
    assert len(draw.path) == 28
    assert draw.kept == [(i,) for i in draw.path]


@pytest.mark.parametrize("algorithm", ["darts", "gdas", "sampled"])
def test_a_step_moves_alpha_and_the_weights_of_what_it_ran(algorithm):
    mine = ours(algorithm)
    mine.architecture.param_groups[0]["weight_decay"] = 0.0
    alpha = mine.alpha.detach().clone()
    weights = {name: p.detach().clone() for name, p in mine.network.named_parameters()}
    mine.step()
    assert (mine.alpha != alpha).any()
    moved = [not torch.equal(p, weights[name]) for name, p in mine.network.named_parameters()]
    assert any(moved)
    assert all(moved) == (algorithm == "darts")


def test_steps_of_the_same_number_draw_the_same():
    drawn = []
    steps = [seeded(lambda: drawn.append(torch.rand(()).item())) for _ in range(2)]
    for step in (*steps, *steps):
        step()
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_stand_ins_are_there_inside_the_block_alone():
    with stand_ins(["no_such_package", "no_such_package.part", "json"]):
        from no_such_package.part import profile

        assert profile("anything", verbose=False) == (0.0, 0.0)
        assert sys.modules["json"].dumps({}) == "{}"
    assert "no_such_package" not in sys.modules
    assert "json" in sys.modules


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, arguments)])
    return program.main()


def test_a_folder_that_is_no_checkout_is_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, tmp_path)
    message = capsys.readouterr().err
    assert all(peer.mark in message for peer in (Quark0, Confopt))


def test_nothing_is_timed_where_the_work_differs(monkeypatch, tmp_path, capsys):
    (tmp_path / Alike.mark).touch()
    monkeypatch.setattr(program, "PEERS", (Alike,))
    monkeypatch.setattr(Alike, "step", lambda self: None)
    monkeypatch.setattr(program, "time", lambda *_: pytest.fail("timed"))
    out = tmp_path / "measured.jsonl"
    assert run(monkeypatch, tmp_path, "--only", "time", "--batch", 2, "--channels", 4, "--cells", 3, "--json", out) == 1
    assert "not the same work" in capsys.readouterr().err
    assert not out.exists()


def test_times_and_ratios_are_recorded(monkeypatch, tmp_path, capsys):
    (tmp_path / Alike.mark).touch()
    monkeypatch.setattr(program, "PEERS", (Alike,))
    out = tmp_path / "measured.jsonl"
    sizes = ["--batch", 2, "--channels", 4, "--cells", 3, "--rounds", 2]
    assert run(monkeypatch, tmp_path, "--only", "time", *sizes, "--json", out) == 0
    rows = record.read(out)
    row = "alike, darts, 3 cells, C=4, batch 2, both steps"
    assert {r["form"] for r in rows if r["row"] == row} == {"theirs, NCHW", "theirs, channels_last"}
    assert {r["row"] for r in rows if "seconds" in r} == {f"{row}, {name}" for name in variants_of("darts")}
    assert not any("bytes" in r for r in rows)


def test_an_algorithm_that_a_peer_lacks_is_refused(monkeypatch, tmp_path, capsys):
    (tmp_path / "cnn").mkdir()
    (tmp_path / Quark0.mark).touch()
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, tmp_path, "--algorithm", "gdas")
    assert "quark0/darts has no gdas" in capsys.readouterr().err
