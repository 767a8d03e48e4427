"""A mutation takes another candidate in one row of a path."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asose_fast.engine.alpha.budget import Bound
from asose_fast.engine.alpha.selector import CLOSED


def mutation(
    choose: Callable[[Tensor], list[int]], allowed: Tensor, path: Sequence[int], draws: random.Random
) -> list[int]:
    """A child of `path` in a space without bounds: one row has another candidate, both drawn uniformly.

    It is choose(s) for s[l, k] = 1 where the path has k in row l, 2 for the new candidate and 0 elsewhere, with noise
    below 1. So an edge that a cell takes in has one of its node's other two go. Where the cell cannot have the
    candidate, the child is the path itself.

    Args:
        choose: the path of the largest sum of scores (`Supernet.choose`).
        allowed: bool (L, K), of the candidates that may be taken.
        path: of the parent; -1 stands for a row that is left out.
        draws: of the row, its candidate and the noise.
    """
    changes = _changes(allowed, path)
    if not changes:
        return list(path)
    noise = torch.rand(allowed.shape, generator=torch.Generator().manual_seed(draws.getrandbits(62)))
    scores = torch.where(allowed, noise, CLOSED)
    for row, k in enumerate(path):
        if k >= 0:
            scores[row, k] += 1
    scores[draws.choice(changes)] = 3
    return choose(scores)


def mutation_within(bounds: Sequence[Bound], allowed: Tensor, path: Sequence[int], draws: random.Random) -> list[int]:
    """A child of `path` within bounds: one row has another candidate, both drawn uniformly.

    Where that leaves the bounds, the candidate of another row changes as well, a uniform draw of those changes that
    lead back. Where none does, another first change is drawn, and where there is none either, the child is the path
    itself.

    Args:
        bounds: those that the path keeps.
        allowed, path, draws: as in `mutation`; the path has a candidate in every row.
    """
    changes, rows = _changes(allowed, path), range(len(path))
    draws.shuffle(changes)
    for row, k in changes:
        child = [*path[:row], k, *path[row + 1 :]]
        mends = allowed.clone()
        mends[row] = False
        holds = True
        for bound in bounds:
            taken = bound.table[rows, child]
            spent = bound.fixed + taken.sum()
            holds &= bool(bound.holds(spent))
            mends &= bound.holds(spent - taken[:, None] + bound.table)
        if holds:
            return child
        if found := mends.nonzero().tolist():
            other, k = draws.choice(found)
            child[other] = k
            return child
    return list(path)


def _changes(allowed: Tensor, path: Sequence[int]) -> list[tuple[int, int]]:
    """Returns all rows with the candidates that they do not have and may have."""
    return [(row, k) for row, k in allowed.nonzero().tolist() if k != path[row]]
