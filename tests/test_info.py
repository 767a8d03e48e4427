"""`python -m asose_fast.info`: what is available, and why the rest is not."""

import json

import pytest

from asose_fast import info
from asose_fast.ops import registry
from tests.helpers import python


def test_json_names_what_runs_and_why_the_rest_does_not(tmp_path):
    done = python("-m", "asose_fast.info", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["instruction_set"] in ("generic", "avx2", "avx512")
    assert found["versions"]["torch"]
    for op in registry.operators():
        assert found["used"][op]["cpu"] == "cpu"
        assert "cpu" not in found["missing"][op]
        assert "reference" not in found["missing"][op]


def test_text_has_a_row_for_every_operator_and_backend(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.argv", ["info"])
    info.main()
    text = capsys.readouterr().out
    assert "instruction set" in text
    for op in registry.operators():
        for backend in registry.BACKENDS:
            assert any(op in line and f" {backend} " in line for line in text.splitlines())


def test_every_reason_is_a_sentence_of_its_own():
    for reasons in info.collect()["missing"].values():
        assert all(len(reason) > 10 for reason in reasons.values())


@pytest.mark.parametrize("wanted", ["nonsense", "AVX512"])
def test_an_unknown_instruction_set_is_a_reason(wanted):
    done = python("-m", "asose_fast.info", "--json", ASOSE_ISA=wanted)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["instruction_set"] is None
    reason = found["missing"]["mixed_sum"]["cpu"]
    assert f"ASOSE_ISA={wanted} is not one of the instruction sets that run here: " in reason
    assert "generic" in reason
    assert found["used"]["mixed_sum"]["cpu"] == "reference"


def test_info_says_what_an_operator_has_not():
    found = info.collect()
    assert found["missing"]["line_conv"]["cuda"] == "line_conv has no cuda implementation"
    assert found["missing"]["line_conv"]["triton"] == "line_conv has no triton implementation"
    assert found["missing"]["separable"]["cuda"] == "separable has no cuda implementation"
    assert "no cuda implementation" not in found["missing"]["mixed_sum"].get("cuda", "")


def test_a_rule_is_one_line():
    rules = [rule for of_op in info.collect()["rules"].values() for rule in of_op.values()]
    assert rules
    assert all(rule == " ".join(rule.split()) for rule in rules)
