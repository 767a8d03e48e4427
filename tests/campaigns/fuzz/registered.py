"""Arguments of the registered operators, torch.ops.asose_fast, which are private: counts, shapes, dtypes, numbers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.campaigns.fuzz.operators import FLOATS, LAYOUTS, Draw, laid_out, strange
from tests.campaigns.fuzz.target import Target, refused
from tests.ops.raw_calls import call, cut_short, freed, right_calls

SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
NUMBERS = st.sampled_from((-(2**63), -(2**31), -1, 0, 1, 2, 3, 4, 127, 128, 129, 2000, 2**31, 2**62, 2**63 - 1))
COUNTS = st.sampled_from((0, 1, 2, 3, 33, 65, 129))


@st.composite
def other_tensor(draw: Draw, right: Tensor) -> Tensor:
    """In the place of a tensor: of other strides, shape, dtype or device, or not all in memory."""
    kind = draw(st.sampled_from(("layout", "strange", "shorter", "longer", "dtype", "meta", "freed", "cut short")))
    if kind == "layout":
        return laid_out(tuple(right.shape), right.dtype, draw(st.sampled_from(LAYOUTS)), "small")
    if kind == "strange":
        return draw(strange().filter(lambda value: isinstance(value, Tensor)))
    if kind in ("shorter", "longer"):
        shape = list(right.shape) or [1]
        d = draw(st.integers(0, len(shape) - 1))
        shape[d] = max(0, shape[d] + (1 if kind == "longer" else -1))
        return torch.ones(shape).to(right.dtype)
    if kind == "dtype":
        return right.to(draw(st.sampled_from((*FLOATS, torch.int64))))
    return {"meta": lambda x: x.to("meta"), "freed": freed, "cut short": cut_short}[kind](right)


@st.composite
def other(draw: Draw, right: Any) -> Any:
    """In the place of any argument: something else of its type."""
    if isinstance(right, Tensor):
        return draw(other_tensor(right))
    if isinstance(right, bool):
        return not right
    if isinstance(right, int):
        return draw(NUMBERS)
    if isinstance(right, float):
        return draw(st.floats())
    if not isinstance(right, list) or not right:
        return right
    items = list(right)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(items) - 1))
        items[place] = draw(other(right[place]))
    count = draw(st.one_of(st.just(len(items)), COUNTS))
    return (items * (count // len(items) + 1))[:count]


@st.composite
def calls(draw: Draw, name: str) -> dict[str, Any]:
    """Right arguments, of which often one or two are replaced."""
    shape = draw(st.sampled_from(((2, 3, 6, 5), (1, 17, 9, 4), (0, 2, 3, 3), (1, 1, 1, 1))) | SHAPES)
    arguments = right_calls(draw(st.sampled_from(FLOATS)), shape)[name]
    count = draw(st.sampled_from((0, 1, 1, 2)))
    for argument in draw(st.permutations(sorted(arguments)))[:count]:
        arguments[argument] = draw(other(arguments[argument]))
    return arguments


def _target(name: str) -> Target:
    def check(arguments: dict[str, Any]) -> bool:
        # The last is the dispatcher's, where no tensor tells it what to run, or one is sparse.
        return not refused(lambda: call(name, arguments), TypeError, ValueError, NotImplementedError)

    return Target(f"torch.ops.asose_fast.{name}", calls(name), check)


def targets() -> list[Target]:
    """All of them."""
    return [_target(name) for name in right_calls()]
