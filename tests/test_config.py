"""Settings of runs that an earlier release began."""

import pytest

from asose_fast import files
from asose_fast.config import Config
from tests.helpers import ROOT


def test_the_settings_of_a_released_version_are_those_of_the_run_that_they_began():
    there = files.read_settings(ROOT / "tests" / "config_0_2_0.yaml")
    found = Config.from_dict(there).to_dict()
    assert {name: found[name] for name in there} == there
    assert found.keys() > there.keys()
    assert (found["stem_stride"], found["derive_max_latency"], found["latency_device"]) == (1, None, "cpu")


@pytest.mark.parametrize("change", [{"no_setting": 1}, {"channels": None}])
def test_other_settings_are_refused(change):
    there = files.read_settings(ROOT / "tests" / "config_0_2_0.yaml")
    with pytest.raises(ValueError, match=r"no_setting|channels"):
        Config.from_dict(there | change)
