"""A small sample of the fuzzing campaign: a few inputs for every target."""

import re

import pytest
from hypothesis import strategies as st

from tests.campaigns.fuzz.target import Finding, Target, refused, run
from tests.helpers import python


@pytest.mark.long
def test_a_sample_is_taken_or_refused():
    done = python("-m", "tests.campaigns.fuzz", "--seconds", "0", "--examples", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^│ [\w. ]+ │ 12 ", done.stdout, re.MULTILINE)) == 63, done.stdout


def test_what_is_neither_taken_nor_refused_is_a_finding():
    def check(number):
        return not refused(lambda: 1 // (number - 5) if number < 9 else int("x"), ValueError)

    with pytest.raises(ZeroDivisionError):
        run(Target("division", st.integers(0, 20), check), 100, 0)
    counts = run(Target("parsing", st.integers(9, 20), check), 12, 0)
    assert counts[False] == counts.total() > 0
    with pytest.raises(Finding, match="ValueError without a message"):
        refused(lambda: (_ for _ in ()).throw(ValueError()), ValueError)


def test_a_crash_and_a_standstill_are_findings():
    code = """
import faulthandler, os, time
from hypothesis import strategies as st
from tests.campaigns.fuzz import worker
from tests.campaigns.fuzz.target import Target
faulthandler.enable()
worker.STANDSTILL = 2
for check in (lambda n: os.abort() if n > 3 else True, lambda n: time.sleep(1000) if n > 3 else True):
    report = worker.fuzz(Target("target", st.integers(0, 99), check), 5, 0)
    print(report.finding)
report = worker.fuzz(Target("target", st.integers(0, 99), lambda n: n > 50), 0, 0)
print(report.finding, report.taken > 0, report.refused > 0)
"""
    done = python("-c", code)
    assert done.stdout.count("target: killed by SIGABRT in round 0") == 2, done.stdout + done.stderr
    assert done.stdout.endswith("None True True\n")
