"""
Statistics of runs that share their seeds.

What differs between seeds (initial weights, the order of the images) moves two recipes in much the
same way, so the difference is taken within each seed before it is averaged: it varies less than the
difference of two means.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple, Optional

from scipy.stats import t as student_t

__all__ = ["CONFIDENCE", "Difference", "Spread", "paired_difference", "spread"]

CONFIDENCE = 0.95
NO_RESULT = "(no result yet)"
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Spread(NamedTuple):
    """
    Mean and standard deviation of what all seeds gave.
    """

    mean: float
    sd: Optional[float]  # None: of fewer than two
    n: int

    @property
    def text(self) -> str:
        if self.n == 0:
            return NO_RESULT
        return _tenths(self.mean) + ("" if self.sd is None else f" ± {_tenths(self.sd)}")


class Difference(NamedTuple):
    """
    What a recipe has more than the reference, on the same seeds.
    """

    values: tuple[float, ...]  # of each seed
    mean: float
    low: Optional[float]  # the interval that Student's t gives. None: of fewer than two seeds
    high: Optional[float]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def sign(self) -> int:
        """
        1 if the whole interval is above 0, -1 if it is below, and 0 if the seeds cannot tell.
        """
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def wins(self) -> str:
        """
        How many seeds it is ahead in: "four of five".
        """
        return f"{in_words(sum(x > 0 for x in self.values))} of {in_words(self.n)}"

    @property
    def text(self) -> str:
        """
        "+4.3 AP (95 % interval 1.2 to 7.4, five seeds)"
        """
        if self.n == 0:
            return NO_RESULT
        seeds = f"{in_words(self.n)} seed{'s' if self.n > 1 else ''}"
        if self.low is None:
            return f"{_tenths(self.mean, '+')} AP ({seeds})"
        interval = f"{100 * CONFIDENCE:.0f} % interval {_tenths(self.low)} to {_tenths(self.high)}"
        return f"{_tenths(self.mean, '+')} AP ({interval}, {seeds})"

    @property
    def cell(self) -> str:
        """
        "+4.3 (1.2 to 7.4), n = 5"; "-" for one seed, of which nothing follows.
        """
        if self.low is None:
            return "-"
        interval = f"{_tenths(self.low)} to {_tenths(self.high)}"
        return f"{_tenths(self.mean, '+')} ({interval}), n = {self.n}"


def _tenths(x: float, sign: str = "-") -> str:
    return f"{round(x, 1) + 0.0:{sign}.1f}"  # + 0: there is no -0.0


def in_words(n: int) -> str:
    return WORDS[n] if n < len(WORDS) else str(n)


def spread(values: Sequence[float]) -> Spread:
    """
    Args:
        values: one of each seed. Their standard deviation is the sample's (n - 1).
    """
    n = len(values)
    return Spread(fmean(values) if n else math.nan, stdev(values) if n > 1 else None, n)


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """
    Args:
        values: of a recipe, one of each seed.
        reference: of what it is compared with, for the same seeds in the same order.

    Returns:
        Difference: with the interval that covers the mean difference with a probability of 95 %,
        if the differences of the seeds are normally distributed.
    """
    differences = tuple(x - y for x, y in zip(values, reference, strict=True))
    mean, sd, n = spread(differences)
    if sd is None:
        return Difference(differences, mean, None, None)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Difference(differences, mean, mean - half, mean + half)
