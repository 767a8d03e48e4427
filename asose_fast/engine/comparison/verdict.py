"""Whether a found network is better than others is said with an interval, in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtrit

SHARE = 0.95
"""An interval has this confidence."""


class Difference(NamedTuple):
    """The accuracy of a found network minus that of others, from -1 to 1, and the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Says whether the found network is better, beyond chance."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """Says whether it is worse, beyond chance."""
        return self.high < 0

    @property
    def words(self) -> str:
        """Says it in percentage points."""
        value, low, high = (100 * x for x in self)
        if self.better:
            return f"better by {value:.1f} points [{low:.1f}, {high:.1f}]"
        if self.worse:
            return f"worse by {-value:.1f} points [{-high:.1f}, {-low:.1f}]"
        return f"not shown to be better, {value:+.1f} points [{low:.1f}, {high:.1f}]"


def difference(found: float, others: Sequence[float], chance: Sequence[float], images: int) -> Difference:
    """Returns found - mean(others), with the interval that would hold it were the found network one like the others.

        +- sqrt(1 + 1/m) max(t s, z sqrt(p (1 - p) / n))

    Networks of one size differ in accuracy by their architecture and by the chance of training: s is the standard
    deviation of k random ones, t the quantile of Student's distribution with k - 1 degrees of freedom. The interval is
    that of one new draw against the mean of m, and so no narrower for a larger k than the draws are spread. Where they
    happen to be alike, the second term still has the chance of the test images: z = 1.96, and p is the accuracy with
    two right and two wrong images more (Agresti and Coull, 1998).

    Args:
        found: accuracy of the found network.
        others: accuracies of the m that it is compared with, at least one.
        chance: accuracies of the k random networks, at least two.
        images: n, of the test set.
    """
    quantile = (1 + SHARE) / 2
    of_networks = float(stdtrit(len(chance) - 1, quantile)) * statistics.stdev(chance)
    p = (images * statistics.fmean([found, *others]) + 2) / (images + 4)
    of_images = statistics.NormalDist().inv_cdf(quantile) * math.sqrt(p * (1 - p) / images)
    half = math.sqrt(1 + 1 / len(others)) * max(of_networks, of_images)
    value = found - statistics.fmean(others)
    return Difference(value, value - half, value + half)


def conclusion(random: Difference, plain: Difference) -> str:
    """Returns what follows from the differences to random networks and to a plain one, in a sentence or two."""
    if random.better and plain.better:
        return "The search was worth it on these images."
    if plain.worse:
        return "The search was not worth it on these images: the plain network, which needs none, is better."
    if random.worse:
        return "The search was not worth it on these images: a random network of this size is better."
    needless = " The plain network, which needs none, is as good as far as these images tell."
    return "The search is not shown to be worth it on these images." + ("" if plain.better else needless)
