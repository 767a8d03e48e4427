"""A network of blocks that learn nothing is said to be one."""

import json

import pytest
import yaml

from asose_fast.config import CANDIDATES, Config, HealthConfig
from asose_fast.engine.health.weightless import advice, weightless, weightless_share
from asose_fast.report.page import advice as reported
from asose_fast.report.page import render
from asose_fast.report.run import read
from asose_fast.space import BlockSpec
from asose_fast.space.build import make_spec
from asose_fast.train import main
from tests.helpers import make_config, make_network, options


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        *((BlockSpec((name,), 4, 4), name in CANDIDATES[:4]) for name in CANDIDATES),
        (BlockSpec(("max_pool_3x3",), 4, 4, 2), True),
        (BlockSpec(("skip_connect",), 4, 4, 2), False),  # a factorized reduction
        (BlockSpec(("max_pool_3x3",), 4, 8, 2), False),  # projects
    ],
)
def test_a_block_without_weights_has_none_but_its_gain(block, expected):
    (module,) = make_network(block.candidates, depth=1).evolvable_blocks()
    module = type(module)(block)
    assert weightless(block) == expected == (sum(p.numel() for p in module.parameters()) == 1)


def derived(chosen, space="chain"):
    network = make_network(("skip_connect", "max_pool_3x3", "sep_conv_3x3"), depth=len(chosen), space=space)
    return network.derive(chosen).spec


def test_most_of_a_chain_is_more_than_half_of_it():
    assert weightless_share(derived([0] * 6)) == 4 / 6  # the two that project have weights
    assert weightless_share(derived([0, 0, 1, 0, 2, 1])) == 0.5
    assert advice(HealthConfig(), derived([0, 0, 1, 0, 2, 1])) == []
    (sentence,) = advice(HealthConfig(), derived([0, 0, 1, 0, 0, 1]))
    assert sentence.startswith("4 of 6 blocks that the search chose have no weights (skip_connect, max_pool_3x3): ")
    assert "--space stages" in sentence
    assert advice(HealthConfig(weightless_most=0.7), derived([0] * 6)) == []


def test_it_is_not_judged_where_it_says_nothing():
    """In stages the plain network is all skips."""
    assert weightless_share(derived([0] * 6, "stages")) is None
    assert advice(HealthConfig(), derived([0] * 6, "stages")) == []
    assert weightless_share(make_spec(make_config(space="darts", candidates=("skip_connect",)), 3, 5)) is None


def test_a_run_says_it_everywhere(tmp_path, capsys):
    changes = {
        "depth": 6,
        "epochs": 4,
        "limit_train": 40,
        "batch_size": 10,
        "channels": 2,
        "candidates": ("skip_connect", "max_pool_3x3"),
    }
    assert main([*options(**changes), "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    (sentence,) = summary["advice"]
    assert summary["weightless"] == 4 / 6
    assert {"name": "blocks without weights", "value": 4 / 6, "bound": "<= 0.5", "ok": False} in summary["health"]
    said = capsys.readouterr()
    assert f"warning: {sentence}\n" in said.err
    assert "weightless" in said.out
    run = read(tmp_path)
    assert reported(run) == [*summary["shortcomings"], sentence]
    assert "4 of 6 blocks that the search chose have no weights" in render(run)
    assert main([*options(**changes, space="stages"), "--out", str(tmp_path / "stages")]) == 0
    summary = json.loads((tmp_path / "stages" / "summary.json").read_text())
    assert summary["advice"] == []
    assert all(item["name"] != "blocks without weights" for item in summary["health"])


def test_settings_of_before_are_those_of_now():
    values = yaml.safe_load(yaml.safe_dump(make_config().to_dict()))
    del values["weightless_most"]
    assert Config.from_dict(values) == make_config()
