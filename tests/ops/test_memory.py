"""The pool of the CPU kernels' outputs: what it hands out, takes back and keeps."""

import pytest
import torch

from asose_fast import _native, ops
from asose_fast.ops.native import memory

pytestmark = pytest.mark.skipif(bool(_native.kernels_missing("cpu")), reason="the kernels are not built")
SHAPE = (8, 16, 64, 64)  # 2 MiB in float32


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Instead of the fixture that fills all memory: such tensors do not come from the pool."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_tensors_are_like_those_of_torch(dtype, format):
    like = torch.empty(0, dtype=dtype)
    got, expected = memory.empty(SHAPE, like, format), torch.empty(SHAPE, dtype=dtype, memory_format=format)
    assert (got.shape, got.dtype, got.stride()) == (expected.shape, expected.dtype, expected.stride())
    assert got.data_ptr() % 64 == 0
    assert torch.equal(got.fill_(1), torch.ones_like(got))


def test_memory_comes_back_when_the_last_view_dies():
    like = torch.empty(0)
    ops.release_memory()
    first = memory.empty(SHAPE, like)
    address, view = first.data_ptr(), first[1:]
    del first
    second = memory.empty(SHAPE, like)
    assert second.data_ptr() != address
    view.fill_(3.0)
    second.fill_(5.0)
    assert view.unique().tolist() == [3.0]
    del view
    assert memory.empty(SHAPE, like).data_ptr() == address


def test_much_larger_blocks_are_not_taken():
    like = torch.empty(0)
    ops.release_memory()
    address = memory.empty((64, *SHAPE[1:]), like).data_ptr()
    assert memory.empty(SHAPE, like).data_ptr() != address


def test_graphs_keep_pooled_tensors_alive():
    x = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last).requires_grad_()
    pooled = ops.pool_pair(x)
    kept = [p.detach().clone() for p in pooled]
    y = sum((p * p).sum() for p in pooled)
    del pooled
    for _ in range(4):
        ops.pool_pair(torch.randn(SHAPE))
    y.backward()
    again = torch.autograd.grad(ops.pool_pair(x), x, [2 * p for p in kept])[0]
    assert torch.equal(x.grad, again)


KINDS = [
    ((), (), torch.float32),
    ((3, 5), (5, 1), torch.float64),
    ((8, 4, 3, 3), (36, 1, 12, 4), torch.float32),
    ((2, 3), (1, 2), torch.bfloat16),
]


@pytest.mark.parametrize("off", [False, True])
def test_tensors_made_at_once_are_of_their_kinds_and_apart(off, monkeypatch):
    monkeypatch.setattr(memory, "_off", off)
    found = memory.Tensors(KINDS).empty()
    assert [(t.shape, t.stride(), t.dtype) for t in found] == KINDS
    for number, tensor in enumerate(found):
        tensor.fill_(number)
    assert [t.unique().tolist() for t in found] == [[0], [1], [2], [3]]
    assert memory.Tensors([((0, 2), (2, 1), torch.float32)]).empty()[0].numel() == 0
    assert memory.Tensors([]).empty() == []


def test_their_memory_comes_back_when_the_last_of_them_dies():
    ops.release_memory()
    made = memory.Tensors(KINDS)
    first = made.empty()
    places, last = [t.data_ptr() for t in first], first[2]
    assert all(place % 64 == 0 for place in places)
    del first
    others = made.empty()
    assert not {t.data_ptr() for t in others} & set(places)
    del last
    assert [t.data_ptr() for t in made.empty()] == places


def test_a_workspace_begins_each_array_at_a_cache_line_and_comes_back():
    ops.release_memory()
    held, addresses = memory.workspace(1000, 0, 40, 100_000)
    assert addresses[1] == 0
    assert [a % 64 for a in addresses] == [0] * 4
    assert addresses[2] - addresses[0] == 1024
    assert addresses[3] - addresses[2] == 64
    _, others = memory.workspace(1000)  # while the first is held
    assert others[0] not in addresses
    del held
    assert memory.workspace(1000, 0, 40, 100_000)[1] == addresses


@pytest.mark.parametrize("off", ["environment", "filled"])
def test_a_workspace_is_of_torch_where_the_pool_is_off_or_memory_is_filled(off, monkeypatch):
    monkeypatch.setattr(memory, "_off", off == "environment")
    torch.use_deterministic_algorithms(off == "filled")
    try:
        held, (first, second) = memory.workspace(10, 20)
    finally:
        torch.use_deterministic_algorithms(False)
    assert isinstance(held, torch.Tensor)
    assert held.data_ptr() <= first < second < held.data_ptr() + held.nbytes


def test_blocks_of_other_sizes_in_turn_are_kept():
    like = torch.empty(0)
    ops.release_memory()
    sizes = [SHAPE, (2 * SHAPE[0], *SHAPE[1:]), (3 * SHAPE[0], *SHAPE[1:])]
    first = [memory.empty(shape, like).data_ptr() for shape in sizes]
    assert [memory.empty(shape, like).data_ptr() for shape in sizes] == first
