"""Several architectures, likely or any, of which one is derived when the search ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asose_fast.engine.alpha.selector import CLOSED

TRIES = 10
"""Draws for each path that is asked for, at most: a search that is sure has no other path to give."""
HOTTEST = 2.0**20
"""At this temperature paths have long been uniformly random."""


def likely_paths(choose: Callable[[Tensor], list[int]], scores: Tensor, count: int, seed: int) -> list[list[int]]:
    """The most probable path, then up to `count` others, all different, in the order in which they were drawn.

    Where `choose` is the argmax of every row, choose(s + G) with Gumbel noise G takes candidate k of a row with
    probability e^s_k / sum_j e^s_j; in general it draws what `choose` can give: a path within the budget, or a cell
    with two edges a node (perturb-and-MAP, Papandreou and Yuille 2011).

    Args:
        choose: the path of the largest sum of scores (`BudgetKeeper.choose`).
        scores: log-probabilities (rows, K).
        count: paths besides the first.
        seed: of G, float64.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = scores.detach().cpu().double()
    return _drawn(choose, scores, [choose(scores)], count + 1, TRIES * count, generator)


def uniform_paths(choose: Callable[[Tensor], list[int]], scores: Tensor, count: int, seed: int) -> list[list[int]]:
    """Up to `count` different paths, drawn as choose(G): all equally likely where `choose` has no bounds to keep.

    Args:
        choose, seed: as in `likely_paths`.
        scores: a candidate of `CLOSED` or less is not taken; otherwise they do not matter.
        count: of all paths.
    """
    generator = torch.Generator().manual_seed(seed)
    equal = torch.where(scores.detach().cpu().double() > CLOSED / 2, 0.0, CLOSED)
    return _drawn(choose, equal, [], count, TRIES * count, generator)


def _drawn(
    choose: Callable[[Tensor], list[int]],
    scores: Tensor,
    paths: list[list[int]],
    count: int,
    tries: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Adds to `paths` until they are `count`, or have been tried so often."""
    for _ in range(tries):
        if len(paths) >= count:
            break
        path = choose(scores + _gumbel(scores, generator))
        if path not in paths:
            paths.append(path)
    return paths


def different_paths(choose: Callable[[Tensor], list[int]], scores: Tensor, count: int, seed: int) -> list[list[int]]:
    """Up to `count` different paths, the most probable among them, in the order of their probability.

    They are drawn as in `likely_paths`, but as choose(s / T + G). T begins at 1 and doubles whenever a draw repeats an
    earlier one. So a search that is undecided gives its likely paths, and one that has decided the neighbours of its
    choice; at a large T paths are uniformly random. There are fewer where `choose` has no more to give.

    Args:
        choose, scores, seed: as in `likely_paths`. A score of `CLOSED` or less stays as it is.
        count: of all paths.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = scores.detach().cpu().double()
    paths, temperature = [choose(scores)], 1.0
    while len(paths) < count and temperature < HOTTEST:
        tempered = torch.where(scores > CLOSED / 2, scores / temperature, scores)
        path = choose(tempered + _gumbel(scores, generator))
        if path in paths:
            temperature *= 2
        else:
            paths.append(path)
    return sorted(paths, key=lambda path: -_log_probability(path, scores))


def _gumbel(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Returns Gumbel noise in the shape of the scores."""
    return -torch.empty_like(scores).exponential_(generator=generator).log()


def _log_probability(path: Sequence[int], scores: Tensor) -> float:
    """Returns the sum of the scores on a path. -1 stands for a row that is left out."""
    return sum(float(row[k]) for row, k in zip(scores, path, strict=True) if k >= 0)
