"""These random choices treat every class alike."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.data.errors import DataError


def draw(labels: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Takes `wanted[c]` random members of every class c.

    Args:
        labels: int64 (N,), classes 0 to C - 1.
        wanted: int64 (C,), at most the number of members of each class. Asking for more of a class with the same
            generator state adds members and keeps the others.
        generator: source of the choice.

    Returns:
        The positions taken and those left, int64, each in random order: any part of it is a fair mixture of classes.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)].split(_counts(labels, len(wanted)).tolist())
    taken = torch.cat([members[:n] for members, n in zip(by_class, wanted.tolist(), strict=True)])
    left = torch.cat([members[n:] for members, n in zip(by_class, wanted.tolist(), strict=True)])
    return (
        taken[torch.randperm(len(taken), generator=generator)],
        left[torch.randperm(len(left), generator=generator)],
    )


def limited(labels: Tensor, classes: int, limit: int | None, generator: torch.Generator) -> Tensor:
    """Returns the positions of `limit` members, in proportion to the classes. Each class gives two where it has them.

    Where `limit` is below twice the number of classes, one of each is certain. None gives all, and so does a limit
    above their number.
    """
    counts = _counts(labels, classes)
    if limit is None or limit >= len(labels):
        return draw(labels, counts, generator)[0]
    certain = counts.clamp(max=2 if limit >= 2 * classes else 1)
    spare = counts - certain
    share = spare.double() * (limit - int(certain.sum())) / int(spare.sum())
    wanted = certain + share.long()
    largest_remainders = (share.long() - share).argsort(stable=True)[: limit - int(wanted.sum())]
    wanted[largest_remainders] += 1
    return draw(labels, wanted, generator)[0]


def divided(
    labels: Tensor, classes: tuple[str, ...], fraction: float, generator: torch.Generator, names: str
) -> tuple[Tensor, Tensor]:
    """Sets `fraction` of every class apart. At least one member of it goes, and at least one stays.

    Returns:
        The positions that stay and those set apart.

    Raises:
        DataError: a class has one member only; `names` says what the division is for.
    """
    counts = _counts(labels, len(classes))
    if int(counts.min()) < 2:
        name, count = classes[int(counts.argmin())], int(counts.min())
        raise DataError(f"class {name!r} has {count} image(s) to divide into {names}: it needs at least 2")
    wanted = (counts * fraction).round().long().clamp(min=1).minimum(counts - 1)
    apart, stay = draw(labels, wanted, generator)
    return stay, apart


def _counts(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels, minlength=classes)
