"""Checks that the operators' arguments have in common. Each raises TypeError, which names operator and argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def check_tensor(where: str, value: object) -> None:
    """For a tensor with strides; `where` is "operator: argument"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{where} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{where} must be a dense tensor, got {value.layout}")


def check_integer(where: str, value: object) -> None:
    """For an integer, or what stands for one while a graph is traced."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{where} must be an integer, got {_kind(value)}")


def check_number(where: str, value: object) -> None:
    """For an integer or a float, likewise."""
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) or isinstance(value, bool):
        raise TypeError(f"{where} must be a number, got {_kind(value)}")


def check_flag(where: str, value: object) -> None:
    """For True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{where} must be True or False, got {_kind(value)}")


def as_list(where: str, values: Iterable[Any]) -> list[Any]:
    """The values of a sequence."""
    if not isinstance(values, Iterable) or isinstance(values, Tensor):
        raise TypeError(f"{where} must be a sequence, got {_kind(values)}")
    return list(values)


def _kind(value: object) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r}"[:80]
