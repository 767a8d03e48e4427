"""What the kernels are given of the one batch norm of an operator (csrc/bindings/one_norm.h)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.native import DTYPE_CODES, addresses
from asose_fast.ops.native.channels import wide
from asose_fast.ops.native.norm_tables import known
from asose_fast.ops.norms import OneNorm

Affine = tuple[Tensor | None, Tensor | None]


def readable(norm: OneNorm) -> OneNorm | None:
    """The norm with gamma and beta as the kernels read them; None where its running statistics are not for them."""
    mean, var = norm.running_mean, norm.running_var
    if mean is not None and var is not None and not known(mean, var):
        return None
    gamma, beta = _dense(norm.gamma), _dense(norm.beta)
    return norm if gamma is norm.gamma and beta is norm.beta else norm._replace(gamma=gamma, beta=beta)


def forward_arguments(norm: OneNorm) -> tuple[list[int], list[int], bool, float, float]:
    """The arguments of a forward pass, from a `readable` norm."""
    gamma, beta, mean, var, batches, of_batch, eps, momentum = norm
    tables = addresses((mean, var, batches, gamma, beta))
    return tables, _codes((mean, gamma, beta)), of_batch, eps, momentum


def of_several(norms: Sequence[OneNorm]) -> tuple[list[int], list[int], list[bool], list[float], list[float]]:
    """The arguments of a forward pass through several `readable` norms."""
    tables, dtypes, of_batch, eps, momenta = zip(*map(forward_arguments, norms), strict=True)
    return list(itertools.chain(*tables)), list(itertools.chain(*dtypes)), list(of_batch), list(eps), list(momenta)


class Gradients:
    """gamma, beta and their gradients in a backward pass, as far as they are there."""

    def __init__(self, gamma: Tensor | None, beta: Tensor | None, wanted: bool) -> None:
        self._like = gamma, beta
        self._read = _dense(gamma), _dense(beta)
        self._found = [None if t is None or not wanted else torch.empty_like(t) for t in self._read]

    def arguments(self) -> tuple[list[int], list[int]]:
        """What the kernels are given."""
        return addresses((*self._read, *self._found)), _codes(self._read)

    def found(self, none: Tensor) -> tuple[Tensor, Tensor]:
        """dL/dgamma and dL/dbeta, or empty tensors like `none`."""
        of_gamma, of_beta = (
            none.new_empty(0) if g is None else g if like is None or g.dtype is like.dtype else g.to(like.dtype)
            for g, like in zip(self._found, self._like, strict=True)
        )
        return of_gamma, of_beta


def _codes(tables: Sequence[Tensor | None]) -> list[int]:
    return [0 if t is None else DTYPE_CODES[t.dtype] for t in tables]


def _dense(table: Tensor | None) -> Tensor | None:
    """A table of channels as the kernels read it."""
    if table is None or (table.dtype in READ and table.is_contiguous()):
        return table
    return wide(table)


READ = frozenset({torch.float32, torch.float64, torch.bfloat16})
"""The dtypes that the kernels read tables of channels in."""
