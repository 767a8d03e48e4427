"""This module says what a setting may be: its type, and bounds that stand beside the fields of a dataclass. They are
checked when one is made."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Number = TypeVar("Number", int, float, None)
MOST_LAYERS = 1000
"""A network has at most so many layers: blocks of a chain, or cells."""
MOST_CHANNELS = 1 << 20
MOST_SIDE = 10**4
"""An image has at most so many pixels a side."""
MOST_COST = 10**18
"""A bound on parameters or FLOPs is at most this, which an int64 holds."""
MOST_EPOCHS = 10**6
MOST_SECONDS = 1e9
"""A time that a user gives is at most this, some thirty years."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A number has a lower and an upper bound, so that neither NaN nor an infinity is within them."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Returns whether `value` is a number within the bounds."""
        lower = value > self.above if self.above is not None else self.least is not None and value >= self.least
        upper = value < self.below if self.below is not None else self.most is not None and value <= self.most
        return lower and upper

    @property
    def ends(self) -> tuple[str, str]:
        """Says both bounds in words."""
        lower = f"above {self.above}" if self.above is not None else f"at least {self.least}"
        upper = f"below {self.below}" if self.below is not None else f"at most {self.most}"
        return lower, upper


def bounded(
    default: Number,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Number:
    """Makes a field of a dataclass with a default and its bounds: `least` or `above`, and `most` or `below`."""
    field: Any = dataclasses.field(default=default, metadata={"bounds": Bounds(least, most, above, below)})
    return field  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Dataclasses of settings derive from this. A field that is not of its type or bounds raises ValueError."""

    def __post_init__(self) -> None:
        check(self, type(self))


def check(settings: Settings, part: type[Settings], error: type[ValueError] = ValueError) -> None:
    """Raises `error` for the first field of `part` that does not hold what it may, with its name, value and range."""
    for name, kind, bounds in _fields(part):  # type: ignore[arg-type]  # mypy looks for the hash of an instance
        check_value(name, getattr(settings, name), kind, bounds, error)


def check_value(
    name: str, value: Any, kind: Any, bounds: Bounds | None = None, error: type[ValueError] = ValueError
) -> None:
    """Raises `error` for a value that is not of the type `kind` or not within bounds."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    optional, kind = types.NoneType in kinds, next(k for k in kinds if k is not types.NoneType)
    if value is None and not optional:
        raise error(f"{name} must have a value, got null")
    if value is not None and not _is(value, kind, bounds):
        raise error(f"{name} must be {_words(kind, bounds)}{', or None' * optional}, got {shown(value)}")


@functools.cache
def _fields(part: Any) -> list[tuple[str, Any, Bounds | None]]:
    hints = get_type_hints(part)
    return [(field.name, hints[field.name], field.metadata.get("bounds")) for field in dataclasses.fields(part)]


def _is(value: Any, kind: Any, bounds: Bounds | None) -> bool:
    if kind in (int, float):
        number = type(value) is not bool and isinstance(value, int if kind is int else (int, float))
        return number and (bounds is None or bounds.hold(value))
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, (tuple, list)) and all(_is(item, get_args(kind)[0], None) for item in value)
    return isinstance(value, kind)


def _words(kind: Any, bounds: Bounds | None) -> str:
    if kind in (int, float):
        words = [*(bounds.ends if bounds else ()), *(["whole"] if kind is int else [])] or ["a number"]
        return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a list, each item {_words(get_args(kind)[0], None)}"
    return {str: "text", bool: "true or false"}.get(kind, getattr(kind, "__name__", str(kind)))


def shown(value: Any) -> str:
    """Returns a value as it stands in a message, however long it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or nested lists
        return f"{type(value).__name__} too large to be shown"
    return text if len(text) <= 100 else f"{text[:97]}..."
