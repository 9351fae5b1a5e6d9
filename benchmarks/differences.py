"""
Differences between recipes, within a seed.
"""

import math
from typing import NamedTuple

import pandas as pd
from scipy.stats import ttest_1samp

__all__ = ["Difference", "paired_difference"]


class Difference(NamedTuple):
    """
    The difference in AP between two recipes. It is taken within each seed, whose runs share initial
    weights and the order of images, and so varies less than the difference of two means.
    """

    values: tuple[float, ...]  # one per seed
    mean: float
    low: float  # 95 % interval of the mean, by Student's t. NaN for fewer than two seeds
    high: float

    @property
    def sign(self) -> int:
        """
        1 if the whole interval is above 0, -1 if it is below, 0 if it contains 0.
        """
        return int(self.low > 0) - int(self.high < 0)

    @property
    def text(self) -> str:
        """
        "+4.3 (1.2 to 7.4)", or "-" without an interval.
        """
        if math.isnan(self.low):
            return "-"
        low, high = (round(x, 1) + 0.0 for x in (self.low, self.high))  # no -0.0
        return f"{self.mean_text} ({low:.1f} to {high:.1f})"

    @property
    def mean_text(self) -> str:
        """
        "+4.3"
        """
        return f"{round(self.mean, 1) + 0.0:+.1f}"  # no -0.0


def paired_difference(values: pd.Series, reference: pd.Series) -> Difference:
    """
    Args:
        values, reference: AP by seed. Seeds that are not in both do not count.
    """
    differences = (values - reference).dropna()
    low = high = math.nan
    if len(differences) > 1:
        low, high = ttest_1samp(differences, 0).confidence_interval(0.95)
    return Difference(tuple(differences), differences.mean(), float(low), float(high))
