"""Several likely architectures, among which validation accuracy decides when the search ends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TRIES = 10
"""Draws for each path that is asked for, at most: a search that is sure has no other path to give."""


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
    paths = [choose(scores)]
    for _ in range(TRIES * count):
        if len(paths) > count:
            break
        exponential = torch.empty_like(scores).exponential_(generator=generator)
        path = choose(scores - exponential.log())
        if path not in paths:
            paths.append(path)
    return paths
