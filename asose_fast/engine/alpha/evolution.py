"""Regularised evolution: the best of a few breed, and the oldest die (Real et al., arXiv 1802.01548)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

MOST_ALIVE = 100
"""The population has at most so many members, and a quarter of the evaluations where that is less."""
TRIES = 10
"""So many children are bred, at most, for one that has not been measured yet."""

Mutation = Callable[[Sequence[int], random.Random], list[int]]
"""A child of a path."""


def evolved(
    first: Callable[[int], list[list[int]]],
    mutated: Mutation,
    fitness: Callable[[list[int]], float],
    evaluations: int,
    seed: int,
) -> list[int]:
    """The fittest of up to `evaluations` different paths; of equal ones the first.

    A population of P = min(100, evaluations / 4) paths, two at least, is measured. Then, again and again, the fittest
    of a tournament of max(2, P / 4) members, drawn with replacement, has a mutated child, which is measured and takes
    the place of the oldest member. No path is measured twice: a child that is known is bred again, and after `TRIES`
    such children the last one joins with the fitness that it has.

    Args:
        first: so many different paths, or fewer where there are no more.
        mutated: a child of a path.
        fitness: the larger, the better.
        evaluations: at least 1.
        seed: of tournaments and mutations.
    """
    draws = random.Random(seed)
    alive: deque[tuple[int, ...]] = deque(
        tuple(path) for path in first(min(evaluations, MOST_ALIVE, max(2, evaluations // 4)))
    )
    worth = {path: fitness(list(path)) for path in alive}
    size = max(2, len(alive) // 4)
    for _ in range(evaluations - len(alive)):
        for _ in range(TRIES):
            parent = max(draws.choices(alive, k=size), key=worth.__getitem__)
            child = tuple(mutated(parent, draws))
            if child not in worth:
                worth[child] = fitness(list(child))
                break
        alive.append(child)
        alive.popleft()
    fittest = max(worth, key=worth.__getitem__)
    return list(fittest)
