"""What is given as an observer is checked where it enters; docs/observers.md says what it is told."""

import re

import pytest

import asose_fast
from asose_fast import Config, Observer
from asose_fast.engine.observer import EVENTS, checked
from tests.helpers import ROOT, make_trainer
from tests.library.networks import Choices, batches


class Misspelt(Observer):
    def on_epoch_ends(self, state, record): ...


class Duck:
    on_cpu = True

    def on_step(self, state): ...


class MisspeltDuck:
    def on_alpha_steps(self, state): ...


WRONG = [
    (Observer(), TypeError, "observers must be a list, got an object of the class Observer: give [observer]"),
    (None, TypeError, "observers must be a list, got an object of the class NoneType: give [observer]"),
    ([Observer], TypeError, "an observer must be an object, got the class Observer: give Observer()"),
    (
        [Duck(), print],
        TypeError,
        f"an observer must have one of the methods {', '.join(EVENTS)}, got the function print",
    ),
    ([3], TypeError, "got an object of the class int"),
    (
        [Misspelt()],
        ValueError,
        "the method on_epoch_ends of an object of the class Misspelt is of no event and is never called: is "
        "on_epoch_end meant?",
    ),
    ([MisspeltDuck()], ValueError, "is on_alpha_step meant?"),
]


def test_the_events_are_those_of_the_class():
    assert EVENTS == ("on_phase_start", "on_epoch_start", "on_alpha_step", "on_step", "on_epoch_end", "on_run_end")


def test_observers_of_any_class_are_taken():
    duck, own = Duck(), Observer()
    assert checked((duck, own)) == [duck, own]
    assert checked(iter([duck])) == [duck]


@pytest.mark.parametrize(("observers", "error", "message"), [wrong for wrong in WRONG if wrong[0] is not None])
def test_a_search_takes_no_observer_that_is_never_called(observers, error, message):
    with pytest.raises(error, match=re.escape(message)):
        asose_fast.search(Choices(), (batches(), batches(seed=1)), Config(epochs=3), observers=observers)


@pytest.mark.parametrize(("observers", "error", "message"), WRONG)
def test_a_trainer_takes_none_either(observers, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        make_trainer(tmp_path, observers)


def documented(heading):
    """The names in code of the first column of the table under a heading of the page."""
    section = (ROOT / "docs" / "observers.md").read_text().partition(f"### {heading}\n")[2].partition("\n#")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(\w+)", cell)]


def test_the_page_names_the_keys_of_a_record_and_parts_of_the_state(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.run()
    history, keys = trainer.state.history, documented("What a record holds")
    assert {record["phase"] for record in history} == {"warmup", "search", "growth", "optimize"}
    assert all(set(record) - {"growth", "guard"} == set(keys) for record in history)
    assert [record["phase"] for record in history if "growth" in record] == ["growth"]
    assert len(keys) == len(set(keys))
    parts = documented("What the state holds")
    assert len(parts) > 10
    assert all(hasattr(trainer.state, part) for part in parts)
