"""A small sample of the fault campaign: every kind of disturbance once."""

import pytest

from tests.campaigns.faults import KINDS
from tests.helpers import ROOT, python


@pytest.mark.long
def test_every_kind_of_disturbance_once():
    done = python("-m", "tests.campaigns.faults", "--runs", str(len(KINDS)), "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(KINDS)} runs, seed 1: 0 breaches" in done.stdout


@pytest.mark.long
def test_a_search_that_does_not_resume_to_the_same_end_is_a_breach(tmp_path):
    """Where resuming forgets the losses of the epochs before, the campaign must notice."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import sys\n"
        "from asose_fast.engine.state import SearchState\n"
        "restored = SearchState.load_state_dict\n"
        "def forgetful(self, state):\n"
        "    restored(self, {**state, 'history': [{**record, 'train_loss': 0.0} for record in state['history']]})\n"
        "SearchState.load_state_dict = forgetful\n"
        "from tests.campaigns.faults import main\n"
        "sys.exit(main())\n"
    )
    done = python(str(broken), "--first", "1", "--runs", "1", "--seed", "85", PYTHONPATH=str(ROOT))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "metrics differ from those of the undisturbed run" in done.stdout
