"""Programs run launches in one native call, on whatever memory they are given, and refuse places that do not fit."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.native import DTYPE_CODES, address
from asose_fast.ops.native.launches import maker

pytestmark = pytest.mark.skipif(bool(_native.kernels_missing("cpu")), reason="the kernels are not built")
FLOAT = DTYPE_CODES[torch.float32]
NUMBER = -1
"""In place of an element: the argument is no list."""
X, Y = 0, 1
"""Bases."""


def program(launches: list[Any], bases: int = 2) -> Any:
    return _native.kernels("cpu").Program(launches, bases)


def sum_launch(places: list[tuple[int, ...]], weights: Tensor, size: int) -> Any:
    """y = w_0 x_0 + w_1 x_1 of the operands x_0, x_1 and y, which are argument 3."""
    make = maker(_native.kernels("cpu").mixed_sum_forward)
    return make(places, FLOAT, 2, [size], [0, 0, 0], [1, 1, 1], address(weights), 1)


def add_launch(places: list[tuple[int, ...]], one: Tensor, size: int) -> Any:
    """to += x, arguments 4 and 5."""
    return maker(_native.kernels("cpu").add_scaled)(places, FLOAT, size, FLOAT, address(one), 0, 0, 1)


@pytest.fixture
def twice_and_once() -> tuple[Any, int]:
    """y = 3 x_0 + 2 x_1 of the halves of x, by two launches, and their size."""
    size = 1 << 12
    two, one = torch.full((2,), 2.0), torch.ones(1)
    halves = [(3, 0, X, 0), (3, 1, X, 4 * size), (3, 2, Y, 0)]
    made = program([sum_launch(halves, two, size), add_launch([(4, NUMBER, X, 0), (5, NUMBER, Y, 0)], one, size)])
    return (made, two, one), size


def run(made: Any, *tensors: Tensor) -> None:
    made.run(list(map(address, tensors)))


def test_launches_run_in_order_on_the_memory_of_then(twice_and_once: tuple[Any, int]) -> None:
    (made, *_), size = twice_and_once
    for _ in range(2):
        x, y = torch.randn(2, size), torch.full((size,), torch.nan)
        run(made, x, y)
        torch.testing.assert_close(y, 3 * x[0] + 2 * x[1])


def test_threads_run_one_program_at_once(twice_and_once: tuple[Any, int]) -> None:
    (made, *_), size = twice_and_once

    def alone(seed: int) -> Tensor:
        x, y = torch.randn(2, size, generator=torch.Generator().manual_seed(seed)), torch.empty(size)
        run(made, x, y)
        return y

    expected = list(map(alone, range(400)))
    with ThreadPoolExecutor(2) as threads:
        assert all(map(torch.equal, threads.map(alone, range(400)), expected))


def test_a_launch_keeps_its_plan() -> None:
    plan = _native.kernels("cpu").LinearPlan(FLOAT, 2, 3, 4, 1)
    weight, room = torch.randn(4, 3), torch.empty(plan.forward_bytes, dtype=torch.uint8)
    places = [(0, 0, X, 0), (0, 3, Y, 0)]
    made = program([maker(plan.forward)(places, [0, address(weight), 0, 0, address(room)])])
    del plan
    gc.collect()
    x, y = torch.randn(2, 3), torch.empty(2, 4)
    run(made, x, y)
    torch.testing.assert_close(y, x @ weight.T)


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ((0, NUMBER, X, 0), "must be an address or a list of them"),  # a dtype
        ((7, NUMBER, X, 0), "argument must be from 0 to 6, got 7"),
        ((-1, NUMBER, X, 0), "argument must be from 0 to 6, got -1"),
        ((3, NUMBER, X, 0), "element of a list must be from 0 to 2, got -1"),
        ((3, 3, X, 0), "element of a list must be from 0 to 2, got 3"),
        ((5, 0, X, 0), "element of a number must be from -1 to -1, got 0"),
        ((3, 0, -1, 0), "base must be from 0 to .*, got -1"),
    ],
)
def test_places_that_do_not_fit_are_refused(place: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sum_launch([place], torch.ones(2), 4)


def test_lists_without_addresses_have_no_places() -> None:
    plan = _native.kernels("cpu").SeparableNormPlan(FLOAT, [1, 2, 3, 3], [3], [1], 1, 1)
    with pytest.raises(ValueError, match="must be an address or a list of them"):
        maker(plan.forward)([(4, 0, X, 0)], [0] * 7, [0] * 7, [0] * 5, [0] * 3, [True], [1e-5], [0.1], [0] * 7)


@pytest.mark.parametrize("place", [(3, 0, 0), (3, 0, 0, 0, 0), (3, 0, 0, 0.5), (3, 0, 0, 2**63)])
def test_what_is_no_place_is_refused(place: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        sum_launch([place], torch.ones(2), 4)


@pytest.mark.parametrize("base", [2, 3, 2**63 - 1])
def test_places_outside_the_bases_are_refused(base: int) -> None:
    launches = [add_launch([], torch.ones(1), 0), add_launch([(4, NUMBER, base, 0)], torch.ones(1), 0)]
    with pytest.raises(ValueError, match=f"last base must be from -1 to 1, got {base}"):
        program(launches)
    with pytest.raises(ValueError, match="bases must be"):
        program(launches, -(2**63))


@pytest.mark.parametrize("bases", [[], [0], [0] * 3])
def test_programs_are_given_all_bases(bases: list[int]) -> None:
    with pytest.raises(ValueError, match="bases must hold 2 values"):
        program([]).run(bases)


def test_every_kernel_makes_launches() -> None:
    kernels = _native.kernels("cpu")
    kernels_and_plans = [kernels, *[getattr(kernels, name) for name in dir(kernels) if name.endswith("Plan")]]
    given_nothing = {
        name
        for owner in kernels_and_plans
        for name in dir(owner)
        if not name.startswith("__") and f"{name}(" in (doc := str(getattr(owner, name).__doc__)) and "-> None" in doc
        if not hasattr(owner, f"{name}_launch")
    }
    assert given_nothing == {"pool_release", "trim"}
