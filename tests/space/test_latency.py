"""Latencies, with a clock that counts FLOPs where figures are compared."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from asose_fast.config import Config
from asose_fast.space import latency
from asose_fast.space.build import build, make_spec
from asose_fast.space.cost import candidate_costs, cost_of
from asose_fast.space.latency import Latencies, Target, Timing, candidate_latencies, network_latency
from tests.helpers import FEW

SPACES = {
    "chain": {"space": "chain", "depth": 4, "candidates": FEW},
    "stages": {"space": "stages", "depth": 4},
    "nasbench201": {"space": "nasbench201", "cells": 1},
}


@pytest.fixture
def flops(monkeypatch):
    """One FLOP takes a nanosecond."""
    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(latency, "_clock", lambda target: counter.get_total_flops)
        yield


@pytest.mark.parametrize("space", SPACES)
def test_what_candidates_and_networks_take_is_timed_in_their_places(space, flops):
    spec = make_spec(Config(**SPACES[space], channels=4), 3, 10, 16)
    costs, target = candidate_costs(spec, 16), Target(batch=2)
    found = candidate_latencies(spec, 16, target)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        path = torch.randint(costs.flops.shape[1], (spec.rows,), generator=generator)
        predicted = found.rest.low + int(found.table()[torch.arange(spec.rows), path].sum())
        derived = build(spec).derive(path.tolist()).spec
        assert network_latency(derived, 16, target) == Timing(*3 * [2 * cost_of(derived, 16).flops])
        assert predicted == 2 * cost_of(derived, 16).flops


def test_a_timing_has_the_first_decile_the_median_and_the_last_decile():
    assert Timing.of(range(101)) == Timing(10, 50, 90)


def test_latencies_survive_plain_values():
    found = Latencies(((Timing(1, 2, 3), Timing(0, 0, 0)),), Timing(4, 5, 6))
    assert Latencies.from_dict(found.to_dict()) == found


def test_timing_leaves_random_numbers_and_threads_as_they_were():
    spec = build(make_spec(Config(depth=2, channels=4, candidates=FEW), 3, 10)).derive([0, 1]).spec
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    measured = network_latency(spec, 8, Target(threads=2))
    assert 0 < measured.low <= measured.median <= measured.high
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_device_that_is_not_there_is_named():
    spec = make_spec(Config(depth=1, channels=4, candidates=FEW), 3, 10)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="latency_device 'cuda' cannot be used here"):
        candidate_latencies(spec, 8, Target("cuda"))


def test_the_space_of_darts_is_refused():
    spec = make_spec(Config(space="darts", cells=3, channels=4), 3, 10)
    with pytest.raises(ValueError, match="darts are no sums"):
        candidate_latencies(spec, 8, Target())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(), "1 image, cpu, 1 thread"),
        (Target("cpu", 4, 32), "32 images, cpu, 4 threads"),
        (Target("cuda"), "1 image, cuda"),
    ],
)
def test_a_target_says_where(target, words):
    assert target.words == words
