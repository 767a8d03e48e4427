"""The counters of programs: zeros that launches at the same time never share."""

from __future__ import annotations

import types
import weakref

import pytest

pytest.importorskip("triton")

import torch

from asose_fast.ops.triton import last_program
from asose_fast.ops.triton.last_program import _Zeros, group_size

GPU = torch.device("cuda", 0)


class Streams:
    """A GPU that is not there, whose streams have numbers."""

    current, capturing = 1, False

    def __init__(self, monkeypatch):
        current = lambda device: types.SimpleNamespace(cuda_stream=self.current)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "current_stream", current)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(last_program, "_zeros", lambda device, count: torch.zeros(count, dtype=torch.int32))


@pytest.fixture
def streams(monkeypatch):
    return Streams(monkeypatch)


def memory(counters, count):
    return set(range(counters.data_ptr(), counters.data_ptr() + 4 * count))


def test_launches_of_a_stream_share_counters_and_others_do_not(streams):
    zeros = _Zeros()
    first = zeros.get(GPU, 10)
    assert memory(zeros.get(GPU, 20), 20) > memory(first, 10)
    streams.current = 2
    assert not memory(zeros.get(GPU, 20), 20) & memory(first, 20)
    streams.current = 1
    assert zeros.get(GPU, 10).data_ptr() == first.data_ptr()
    more = zeros.get(GPU, 10 * len(first))
    assert len(more) >= 10 * len(first)
    assert not more.any()


def test_what_a_graph_holds_is_shared_with_no_launch(streams):
    zeros = _Zeros()
    held = [zeros.get(GPU, 998)]
    streams.capturing = True
    held += [zeros.get(GPU, 998) for _ in range(30)]  # more than are kept for graphs
    assert all(found.data_ptr() % 16 == 0 and not found.any() for found in held)
    assert len(set().union(*(memory(found, 998) for found in held))) == 31 * 4 * 998
    streams.capturing = False
    assert zeros.get(GPU, 998).data_ptr() == held[0].data_ptr()


def test_what_a_graph_holds_stays_where_only_the_graph_knows_of_it(streams):
    zeros = _Zeros()
    zeros.get(GPU, 4)
    streams.capturing = True
    storage = weakref.ref(zeros.get(GPU, 1000)._base)
    for _ in range(9):
        zeros.get(GPU, 1000)
    streams.capturing = False
    zeros.get(GPU, 4)  # which gets those of the next graphs
    assert storage() is not None


def test_a_capture_finds_counters_that_were_zeroed_before_it(streams, monkeypatch):
    zeros = _Zeros()
    zeros.get(GPU, 1)

    def fail(*_):
        raise AssertionError("a graph would fill them at every replay")

    monkeypatch.setattr(last_program, "_zeros", fail)
    streams.capturing = True
    zeros.get(GPU, 500)


@pytest.mark.parametrize("tasks", [1, 2, 7, 512, 2048, 100_000])
def test_the_last_program_reads_few_parts(tasks):
    size = group_size(tasks)
    assert size & (size - 1) == 0
    assert size + -(-tasks // size) <= 3 * tasks**0.5
