"""The gate on ratios fails on what is slower twice, and only where a ratio is stored for this processor."""

import json

import pytest

from benchmarks import gate
from benchmarks.measure import Interval


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Runs the gate with made-up measurements, in turn."""

    def run(*ratios, arguments=()):
        queue = list(ratios)
        monkeypatch.setattr(gate, "CASES", {"a step": None})
        monkeypatch.setattr(gate, "STORED", tmp_path / "gate.json")
        monkeypatch.setattr(gate, "measure", lambda name: Interval.of([queue.pop(0)] * 15))
        status = gate.main(list(arguments))
        assert not queue
        return status

    return run


def test_a_slower_case(machine, tmp_path):
    assert machine(9.0) == 0  # nothing is stored
    assert machine(0.5, arguments=["--update"]) == 0
    [stored] = json.loads((tmp_path / "gate.json").read_text()).values()
    assert stored == {"a step": 0.5}
    assert machine(0.62) == 0
    assert machine(0.63, 0.5) == 0
    assert machine(0.63, 0.63) == 1


def test_every_case_is_measured(monkeypatch):
    monkeypatch.setattr(gate, "PAIRS", 2)
    assert gate.measure("mixed_sum").median > 0
