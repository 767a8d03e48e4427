import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asose_fast.data import DataError
from asose_fast.data.seeds import generator
from asose_fast.data.stratify import divided, limited

counts_of_classes = st.lists(st.integers(2, 40), min_size=2, max_size=6)


def labels_of(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator(7))]


@given(counts_of_classes, st.floats(0.01, 0.99))
def test_divided_sets_the_fraction_of_every_class_apart(counts, fraction):
    labels = labels_of(counts)
    names = tuple(map(str, range(len(counts))))
    stay, apart = divided(labels, names, fraction, generator(0), "two")
    assert sorted(torch.cat((stay, apart)).tolist()) == list(range(len(labels)))
    for c, count in enumerate(counts):
        part = int((labels[apart] == c).sum())
        assert 1 <= part <= count - 1
        assert part in (1, count - 1) or abs(part - fraction * count) <= 0.5


@given(counts_of_classes, st.data())
def test_limited_takes_exactly_the_limit_in_proportion(counts, data):
    labels = labels_of(counts)
    limit = data.draw(st.integers(2 * len(counts), len(labels)))
    taken = limited(labels, len(counts), limit, generator(0))
    assert len(set(taken.tolist())) == limit
    of_class = torch.bincount(labels[taken], minlength=len(counts))
    assert of_class.min() >= 2
    if len(set(counts)) == 1:
        assert of_class.max() - of_class.min() <= 1


def test_limited_takes_one_of_each_class_where_the_limit_is_the_number_of_classes():
    labels = labels_of([30, 2, 5])
    assert labels[limited(labels, 3, 3, generator(0))].sort().values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("limit", [None, 37, 1000])
def test_limited_takes_all_where_there_are_no_more(limit):
    assert sorted(limited(labels_of([30, 2, 5]), 3, limit, generator(0)).tolist()) == list(range(37))


def test_a_lower_limit_takes_a_part_of_the_same_images():
    labels = labels_of([30, 20, 25])
    few, many = (set(limited(labels, 3, limit, generator(1)).tolist()) for limit in (10, 40))
    assert few < many


def test_a_class_of_one_cannot_be_divided():
    with pytest.raises(DataError, match=r"class 'b' has 1 image\(s\) to divide into training and validation"):
        divided(labels_of([3, 1]), ("a", "b"), 0.5, generator(0), "training and validation")
