"""How far test accuracies can be trusted: intervals that hold the true share of right answers in 95 of 100 cases."""

from __future__ import annotations

import math
from typing import NamedTuple

Z = 1.959964
"""The standard normal distribution has 95 % of its mass between -Z and Z."""


class Interval(NamedTuple):
    """A value lies between these ends."""

    low: float
    high: float

    @property
    def words(self) -> str:
        """Says an interval of shares in percent."""
        return f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"


def of_share(share: float, count: int) -> Interval:
    """Returns Wilson's interval of a share p of `count` = n images (J. Am. Stat. Assoc. 22, 1927).

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    middle = share + Z * Z / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    scale = 1 + Z * Z / count
    return Interval(max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


def of_difference(one: float, count: int, other: float, other_count: int) -> Interval:
    """Returns Newcombe's interval of the difference p - q of two shares (Stat. Med. 17, 1998, method 10).

    With Wilson's intervals [l, u] of p and [m, v] of q:

    p - q - sqrt((p - l)^2 + (v - q)^2)   to   p - q + sqrt((u - p)^2 + (q - m)^2)

    It is for images that are not the same. Two networks on the same images mostly fail at the same ones, and then their
    difference is less uncertain than this.
    """
    first, second = of_share(one, count), of_share(other, other_count)
    difference = one - other
    return Interval(
        difference - math.hypot(one - first.low, second.high - other),
        difference + math.hypot(first.high - one, other - second.low),
    )
