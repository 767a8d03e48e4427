"""Checks that the operators' arguments have in common. Each raises TypeError or ValueError, which names operator and
argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS


def check_tensor(where: str, value: object) -> None:
    """Takes a tensor with strides and refuses all else; `where` is "operator: argument"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{where} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{where} must be a dense tensor, got {value.layout}")


def check_floats(where: str, value: Tensor) -> None:
    """Takes a tensor of a dtype that the operators compute in."""
    check_tensor(where, value)
    if value.dtype not in FLOATS:
        raise TypeError(f"{where} must be float16, bfloat16, float32 or float64, got {value.dtype}")


def check_channels(where: str, value: Tensor) -> None:
    """Takes (N, C, H, W) with channels, of a dtype that the operators compute in."""
    check_floats(where, value)
    if value.dim() != 4 or value.shape[1] == 0:
        raise ValueError(f"{where} must be (N, C, H, W) with C > 0, got {tuple(value.shape)}")


def check_zs(where: str, values: Sequence[Tensor], most: int) -> None:
    """Takes tensors (N, C, H, W) with channels that are alike, at least one and at most so many."""
    check_length(where, values, 1, most)
    check_channels(where, values[0])
    check_all_like(where, values, len(values), values[0].shape, values[0].dtype)


def check_images(where: str, value: Tensor) -> None:
    """Takes images of such a dtype, of which there may be none."""
    check_floats(where, value)
    if value.dim() != 4 or 0 in value.shape[1:]:
        raise ValueError(f"{where} must be (N, C, H, W) with C, H, W > 0, got {tuple(value.shape)}")


def check_like(where: str, value: Tensor | None, shape: Sequence[int], *dtypes: torch.dtype) -> None:
    """Takes a tensor of this shape and of one of these dtypes, or None."""
    if value is not None and (value.shape != tuple(shape) or value.dtype not in dtypes):
        kinds = " or ".join(sorted(map(str, dtypes)))
        raise ValueError(f"{where} must be {kinds} {tuple(shape)}, got {value.dtype} {tuple(value.shape)}")


def check_all_like(
    where: str, values: Sequence[Tensor | None], count: int, shape: Sequence[int], dtype: torch.dtype
) -> None:
    """Takes `count` tensors of this shape and dtype, any of which may be None."""
    if len(values) != count:
        check_length(where, values, count, count)
    shape = tuple(shape)
    for i, value in enumerate(values):
        if value is not None and (value.shape != shape or value.dtype is not dtype):
            check_like(f"{where}[{i}]", value, shape, dtype)


def check_length(where: str, values: Sequence[object], least: int, most: int) -> None:
    """Takes a list of `least` to `most` values."""
    if not least <= len(values) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(f"{where} must hold {wanted} values, got {len(values)}")


def check_stride(where: str, value: object) -> None:
    """Takes 1 or 2."""
    check_integer(where, value)
    if value not in (1, 2):
        raise ValueError(f"{where} must be 1 or 2, got {value}")


def check_integer(where: str, value: object) -> None:
    """Takes an integer, or what stands for one while a graph is traced."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{where} must be an integer, got {_kind(value)}")


def check_number(where: str, value: object) -> None:
    """Takes an integer or a float, or what stands for one."""
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) or isinstance(value, bool):
        raise TypeError(f"{where} must be a number, got {_kind(value)}")


def check_flag(where: str, value: object) -> None:
    """Takes True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{where} must be True or False, got {_kind(value)}")


def as_list(where: str, values: Iterable[Any]) -> list[Any]:
    """The values of a sequence, which a lone tensor is not, as a list."""
    if type(values) is not list and (not isinstance(values, Iterable) or isinstance(values, Tensor)):
        raise TypeError(f"{where} must be a sequence, got {_kind(values)}")
    return list(values)


def _kind(value: object) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r}"[:80]
