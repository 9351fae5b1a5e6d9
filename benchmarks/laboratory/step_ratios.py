"""
How long a training step takes, relative to one of random sampling: benchmarks/results/
laboratory_times.jsonl, which benchmarks.laboratory.times writes.
"""

from functools import cache
from pathlib import Path

from benchmarks.laboratory.laboratories import LABORATORIES
from benchmarks.provenance import RESULTS, read_results
from ohem_d2.utils import InputError

__all__ = ["ALL", "KEY", "TIMES", "step_ratio"]

TIMES = "laboratory_times.jsonl"
ALL = "all"  # in place of a dataset: the time does not depend on it
# The fields that tell times apart.
KEY = ("laboratory", "dataset", "recipe", "rois")


def step_ratio(laboratory: str, dataset: str, recipe: str, rois: int) -> float:
    """
    Returns:
        float: time of a step, divided by that of random sampling with the laboratory's `rois`. The
        file's ratios may be to another number of RoIs.

    Raises:
        InputError: if it was not measured.
    """
    ratios, reference_rois = _read(RESULTS), LABORATORIES[laboratory].rois
    for measured in (dataset, ALL):
        key = (laboratory, measured, recipe, rois)
        reference = (laboratory, measured, "random", reference_rois)
        if {key, reference} <= ratios.keys():
            return ratios[key] / ratios[reference]
    raise InputError(
        f"{TIMES} needs the time of {recipe} with {rois} RoIs on {dataset}, and that of random "
        f"sampling with {reference_rois}. "
        f"Run `python -m benchmarks.laboratory.times {laboratory} ...` first."
    )


@cache
def _read(folder: Path) -> dict[tuple, float]:
    results = read_results(folder, TIMES, KEY)
    return dict(
        zip(results[list(KEY)].itertuples(index=False, name=None), results["ratio"], strict=True)
    )
