from __future__ import annotations

import dataclasses

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.presets import IMAGES
from asose_fast.space.build import make_spec
from asose_fast.space.cost import candidate_costs, cost_of
from benchmarks.evidence.over_seconds import PHASES, random_network, shortened
from benchmarks.evidence.training import CPU


def test_every_phase_is_made_shorter_by_the_same_share_and_has_an_epoch():
    assert [shortened(IMAGES, 0.25)[name] for name in PHASES] == [2, 3, 1, 19]
    assert [shortened(IMAGES, 0.01)[name] for name in PHASES] == [1, 1, 1, 1]


def test_a_random_network_is_one_that_the_search_may_derive():
    config = Config(**{**IMAGES, "channels": 4, "dataset": "digits", "depth": IMAGES["max_depth"]})
    data = load_data(config, config.batch_size, 0, CPU)
    costs = candidate_costs(make_spec(config, data.channels, 10, data.image_size), data.image_size)
    dearest = costs.fixed.flops + int(costs.flops.amax(1).sum())
    first, second = (random_network(dataclasses.replace(config, seed=seed), data) for seed in (0, 1))
    assert first != second
    for spec in (first, second):
        assert all(len(block.candidates) == 1 for block in spec.blocks)
        assert 0.75 * dearest <= cost_of(spec, data.image_size).flops <= dearest
