"""When the network grows, and where."""

import pytest

from asose_fast.config import GrowthConfig
from asose_fast.engine.growth.grow import StallCounter, next_position, next_stage
from tests.helpers import FEW, make_network, make_trainer


def epochs_of_growth(accuracies, **changes):
    counter, config = StallCounter(), GrowthConfig(**changes)
    return [epoch for epoch, accuracy in enumerate(accuracies) if counter.stalled(config, accuracy)]


def test_grows_after_patience_without_enough_improvement():
    assert epochs_of_growth([0.5] * 6) == [5]
    assert epochs_of_growth([0.5] * 16) == [5, 10, 15]  # the count starts anew
    assert epochs_of_growth([0.5, 0.51, 0.519, 0.5, 0.4, 0.51]) == [5]


def test_an_improvement_by_the_threshold_starts_the_count_anew():
    assert epochs_of_growth([0.5, 0.5, 0.5, 0.5, 0.5, 0.521, 0.521, 0.521, 0.521, 0.521, 0.521]) == [10]


def test_slow_improvement_counts_once_it_adds_up():
    assert epochs_of_growth([0.50, 0.51, 0.521, 0.53, 0.542, 0.55, 0.562, 0.57, 0.583]) == []


def test_patience_and_threshold_are_settings():
    assert epochs_of_growth([0.5, 0.6, 0.6, 0.6], growth_patience=2, growth_threshold=10.5) == [2]


@pytest.mark.parametrize(("depth", "expected"), [(1, 1), (2, 1), (4, 1), (5, 1), (6, 1)])
def test_the_shortest_stage_grows_first(depth, expected):
    assert next_position(make_network(FEW, depth=depth)) in range(depth + 1)
    network = make_network(FEW, depth=depth)
    position = next_position(network)
    stages = [0]
    for block in network.blocks:
        if block.spec.reduces:
            stages.append(0)
        stages[-1] += 1
    network.deepen(position)
    assert not network.blocks[position].spec.reduces
    grown = [0]
    for block in network.blocks:
        if block.spec.reduces:
            grown.append(0)
        grown[-1] += 1
    changed = [i for i, (a, b) in enumerate(zip(stages, grown, strict=True)) if a != b]
    shortest = min(size for size in stages if size)
    assert changed == [max(i for i, size in enumerate(stages) if size == shortest)]


def test_the_narrowest_stage_gets_wider_first():
    spec, order = make_network(FEW, depth=6, channels=4).spec, []
    for _ in range(7):
        stage = next_stage(spec)
        order.append(stage)
        spec = spec.wider(stage, round(1.5 * spec.widths[stage]))
    assert order == [2, 1, 0, 2, 1, 0, 2]


def test_a_block_is_not_added_where_it_has_no_time_to_learn(tmp_path):
    trainer = make_trainer(tmp_path, growth_patience=2, growth_threshold=99.0, growth_epochs=4)
    last = trainer.state.phases[2]
    for epoch, grows in [(last.first + 1, True), (last.first + 2, False), (last.first + 3, False)]:
        trainer.state.progress.epoch, trainer.state.stall.epochs = epoch, 99
        assert bool(trainer.state.grow_if_stalled(last, 0.5)) == grows
