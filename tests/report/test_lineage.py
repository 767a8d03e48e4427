"""Rows of layers over epochs: a layer keeps its row while the network grows."""

from asose_fast.report.epochs import parse
from asose_fast.report.lineage import rows


def epochs(*growth):
    return [parse({"epoch": i, "phase": "growth", "growth": event}) for i, event in enumerate(growth, start=1)]


def deeper(position):
    return {"kind": "deeper", "position": position, "depth": 0}


def test_an_inserted_layer_gets_a_row_between_its_neighbours():
    found = rows(epochs(deeper(1), None), [["a", "b"], ["a", "new", "b"]])
    assert found == [["a", "a"], [None, "new"], ["b", "b"]]


def test_layers_at_both_ends_and_several_at_one_place():
    columns = [["a"], ["0", "a"], ["0", "a", "z"], ["0", "1", "a", "z"]]
    found = rows(epochs(deeper(0), deeper(2), deeper(1), None), columns)
    assert found == [
        [None, "0", "0", "0"],
        [None, None, None, "1"],
        ["a", "a", "a", "a"],
        [None, None, "z", "z"],
    ]


def test_epochs_without_values_are_empty_and_shift_nothing():
    assert rows(epochs(None, deeper(1), None), [["a", "b"], [], ["a", "n", "b"]]) == [
        ["a", None, "a"],
        [None, None, "n"],
        ["b", None, "b"],
    ]


def test_a_network_that_has_been_turned_back_has_its_old_rows_again():
    found = rows(epochs(deeper(0), None, None), [["a", "b"], ["n", "a", "b"], ["a", "b"]])
    assert found == [[None, "n", None], ["a", "a", "a"], ["b", "b", "b"]]


def test_layers_that_no_growth_explains_follow_at_the_end():
    assert rows(epochs(None, None), [["a"], ["a", "b"]]) == [["a", "a"], [None, "b"]]
    assert rows(epochs(deeper(9), deeper("1")), [["a"], ["a"]]) == [["a", "a"]]
    assert rows([], []) == []
