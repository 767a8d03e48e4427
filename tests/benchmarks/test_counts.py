"""The counts of a step see what they are there for."""

import torch

from benchmarks.counts import autograd_nodes, compare, step_counts
from benchmarks.steps import make, ours


def test_nodes_are_counted_once():
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    assert autograd_nodes(y + y) == 3  # sum, product, leaf


def test_an_extra_copy_is_counted():
    steps = ours(*make(2, candidates=("none", "skip_connect", "max_pool_3x3")))
    steps.soft()
    before = step_counts(steps, "soft")
    assert before["own operators"] > 0
    steps.network.blocks[0].register_forward_hook(lambda module, inputs, output: output.clone())
    after = step_counts(steps, "soft")
    assert after["copies"] == before["copies"] + 1
    assert after["operators"] == before["operators"] + 1
    assert after["autograd nodes"] == before["autograd nodes"] + 1


def test_more_is_worse_and_so_is_what_is_not_stored():
    found, stored = {"a": 3, "b": 1, "c": 1, "new": 0}, {"a": 2, "b": 2, "c": 1, "gone": 0}
    worse, better = compare(found, stored)
    assert worse == ["a: 2 -> 3", "gone: None (stored: 0)", "new: 0 (stored: None)"]
    assert better == ["b: 2 -> 1"]
