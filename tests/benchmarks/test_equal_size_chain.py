"""The comparison at equal size among plain networks: its figures, what it can show, and a block of it."""

import pytest
from scipy import stats

from benchmarks.evidence import equal_size_chain
from tests.helpers import TINY


def test_differences_are_paired_by_block():
    rows = [(1.0, 2.0, 4.0), (5.0, 6.5, 7.0), (3.0, 3.5, 6.0), (2.0, 4.0, 4.5)]
    blocks = [{"points": dict(zip(equal_size_chain.ARMS, row, strict=True))} for row in rows]
    first, second, third = equal_size_chain.compared(blocks)
    assert (first["ours"], first["theirs"]) == ("alpha", "uniform")
    assert [one["difference"] for one in (first, second, third)] == pytest.approx([1.375, 1.25, 2.625])
    # Of 2, 0.5, 2.5 and 0.5: a standard deviation of 1.031, and 3.182 of Student's with three degrees of freedom.
    assert first["high"] - first["difference"] == pytest.approx(3.182 * 1.031 / 2, rel=1e-3)
    assert first["p"] == pytest.approx(stats.ttest_rel([4.0, 7.0, 6.0, 4.5], [2.0, 6.5, 3.5, 4.0]).pvalue)
    assert third["p_holm"] == pytest.approx(3 * third["p"])
    assert second["p_holm"] == pytest.approx(max(2 * second["p"], third["p_holm"]))
    assert first["p_holm"] == pytest.approx(max(first["p"], second["p_holm"]))
    assert equal_size_chain.compared(blocks[:1]) == []


def test_power_is_the_level_without_an_effect_and_grows_with_it():
    nothing = equal_size_chain.power(20, 0.7, 0.5, signal=0.0, prior=0.0)
    assert all(shares["p<.05"] == pytest.approx(0.05, abs=0.015) for shares in nothing.values())
    some, more = (equal_size_chain.power(20, 0.7, 0.5, signal=0.5, prior=prior) for prior in (0.5, 1.0))
    assert 0.15 < some["alpha - uniform"]["p<.05"] < more["alpha - uniform"]["p<.05"]
    assert some["uniform - random"]["p<.05"] > nothing["uniform - random"]["p<.05"]


def test_a_block_has_networks_of_one_size_and_finals_of_one_supernet(tmp_path, monkeypatch):
    monkeypatch.setattr(equal_size_chain, "IMAGES", {"limit_train": 120, "limit_test": 40})
    tiny = {name: TINY[name] for name in ("channels", "batch_size", "warmup_epochs", "search_epochs")}
    short = {**tiny, "depth": 4, "finals_epochs": 2, "finals_paths": 2}
    monkeypatch.setattr(equal_size_chain, "SEARCH", {**equal_size_chain.SEARCH, **short})
    monkeypatch.setattr(equal_size_chain, "TRAINING", {**equal_size_chain.TRAINING, "epochs": 1, "batch_size": 20})
    monkeypatch.setattr(equal_size_chain, "RANDOM", 2)
    found, records = equal_size_chain.block("digits", 0, tmp_path)
    assert [one.arm for one in found] == ["alpha", "uniform", "random", "random"]
    for table, width in (([one.parameters for one in found], 1.1), ([one.flops for one in found], 1.05)):
        assert max(table) <= width * min(table) + 1
    for arm in ("alpha", "uniform"):
        (rung,) = records[arm]
        assert rung["finalists"][0]["operations"] == list(next(one.operations for one in found if one.arm == arm))
    assert [record["phase"] for record in records["epochs"]][:2] == ["warmup", "search"]
    again, _ = equal_size_chain.block("digits", 0, tmp_path / "again")
    assert again == found


def test_the_spread_of_networks_is_what_two_trainings_share(monkeypatch, capsys):
    monkeypatch.setattr(equal_size_chain, "IMAGES", {"limit_train": 120, "limit_test": 40})
    monkeypatch.setattr(
        equal_size_chain, "SEARCH", {**equal_size_chain.SEARCH, "channels": 4, "depth": 4, "batch_size": 20}
    )
    results = iter([0.40, 0.41, 0.50, 0.51, 0.60, 0.61])
    monkeypatch.setattr(equal_size_chain, "tested", lambda *_: next(results))
    networks, noise = equal_size_chain.spread("digits", 3)
    assert (round(networks, 6), round(noise, 6)) == (10.0, 0.0)
    assert len(capsys.readouterr().out.splitlines()) == 3
