"""Texts of cell architectures: published ones, round trips, refusals, and the sizes of the networks they name."""

import pytest
import torch

from asose_fast.space.build import build
from asose_fast.space.cells import CellNetworkSpec, Edge
from asose_fast.space.cells.genotype import from_text, is_text, to_text

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
    "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
"""Second order, as published with arXiv 1806.09055."""
PC_DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
    "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], normal_concat=range(2, 6), "
    "reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2), "
    "('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], reduce_concat=range(2, 6))"
)
"""For CIFAR-10, as published with arXiv 1907.05737."""
BENCH = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SIZE = {"in_channels": 3, "classes": 10, "channels": 16, "cells": 5}


def count(spec):
    with torch.device("meta"):
        return sum(p.numel() for p in build(spec).parameters())


def test_published_darts_networks_have_their_published_size():
    """20 cells of 36 channels for CIFAR-10: 3.3 and 3.6 million parameters, the auxiliary classifier not counted."""
    size = {**SIZE, "channels": 36, "cells": 20}
    assert count(from_text(DARTS_V2, **size)) == 3_349_342
    assert round(count(from_text(PC_DARTS, **size)) / 1e6, 1) == 3.6


def test_a_network_of_nas_bench_201_has_the_size_of_its_parts():
    """Stem, 15 cells of five 3x3 convolutions, two reductions, classifier."""
    stage = [15 * (9 * c * c + 2 * c) + 10 * (9 * c * c + 2 * c) for c in (16, 32, 64)]
    reductions = sum(
        2 * c * c * 9 + 4 * c + 4 * c * c * 9 + 4 * c + 2 * c * c for c in (16, 32)
    )  # two convolutions with norms, one 1x1 without
    stem, head = 3 * 16 * 9 + 32, 128 + 64 * 10 + 10
    assert count(from_text(BENCH, **SIZE)) == sum(stage) + reductions + stem + head


@pytest.mark.parametrize("text", [DARTS_V2, PC_DARTS, BENCH])
def test_a_text_is_written_as_it_was_read(text):
    spec = from_text(text, **SIZE)
    again = to_text(spec)
    assert from_text(again, **SIZE) == spec
    assert again.replace(" ", "") == text.replace("[2, 3, 4, 5]", "range(2, 6)").replace(" ", "")
    assert CellNetworkSpec.from_dict(spec.to_dict()) == spec


def test_texts_are_told_from_paths():
    assert is_text(DARTS_V2)
    assert is_text("  " + BENCH)
    assert not is_text("runs/one")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DARTS_V2.replace("('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ", "", 1), "a cell of DARTS has 8 edges"),
        (DARTS_V2.replace("sep_conv_3x3", "conv_9x9", 1), "'conv_9x9' is no operation of darts"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 7)"), "no edge leads from node 7 to node 5"),
        (DARTS_V2.replace("[2, 3, 4, 5]", "[2, 3]"), "cells concatenate nodes 2 to 5"),
        (
            "Genotype(normal=__import__('os').getcwd(), normal_concat=1, reduce=1, reduce_concat=1)",
            "no genotype of DARTS",
        ),
        ("Genotype(normal=[", "no genotype of DARTS"),
        ("Genotype(" * 5000, "no genotype of DARTS"),
        (BENCH + "+|none~0|", "has 3 nodes"),
        (BENCH.replace("nor_conv_3x3~2", "nor_conv_3x3~1"), r"node 3 .* is \|op~0"),
        (BENCH.replace("skip_connect", "sep_conv_3x3"), "'sep_conv_3x3' is no operation of nasbench201"),
    ],
)
def test_a_wrong_text_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        from_text(text, **SIZE)


def test_a_supernet_has_no_text():
    edges = (Edge(1, 0, ("none", "skip_connect")),)
    with pytest.raises(ValueError, match="only a derived network"):
        to_text(CellNetworkSpec("nasbench201", 3, 10, 4, 1, edges))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind must be one of"),
        ({"channels": 0}, "channels must be at least 1, at most 1048576 and whole, got 0"),
        ({"cells": 1_000_000_000}, "cells must be at least 1, at most 1000 and whole, got 1000000000"),
        ({"affine": "yes"}, "affine must be true or false, got 'yes'"),
        ({"normal": [{"target": 2, "source": 0, "candidates": ["none"]}] * 15}, "a darts cell has 14 edges at most"),
        ({"normal": []}, "has edges in its normal cells"),
        ({"reduction": []}, "darts in both kinds"),
        ({"normal": [{"target": 2, "source": 2, "candidates": ["none"]}]}, "no edge leads"),
    ],
)
def test_a_damaged_spec_is_refused(change, message):
    values = {**from_text(DARTS_V2, **SIZE).to_dict(), **change}
    with pytest.raises(ValueError, match=message):
        CellNetworkSpec.from_dict(values)
