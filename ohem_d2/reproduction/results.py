"""
What the runs have resulted in.
"""

import csv
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from ..evaluation.mean_roi_loss import read_roi_losses
from ..utils import InputError, read_metrics
from .rows import FIGURE_3, PLAIN, Row, Training
from .settings import Settings
from .steps import FINISHED, test_folder

__all__ = ["Number", "collect", "figure_3", "read_paper"]

SECONDS, MEMORY = "s / iteration", "GB"


class PaperNumber(NamedTuple):
    row: str
    metric: str
    value: float
    where: str
    known_from: str

    def is_from_memory(self) -> bool:
        return self.known_from.startswith("memory")


class Number(NamedTuple):
    """
    A number of a row, over seeds.
    """

    row: Row
    metric: str
    paper: PaperNumber | None
    values: list[float]  # of the seeds that are done
    hours: list[float]  # of their trainings
    records: list[dict[str, str]]  # how they were made

    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    def spread(self) -> float | None:
        return stdev(self.values) if len(self.values) > 1 else None

    def difference(self) -> float | None:
        return fmean(self.values) - self.paper.value if self.values and self.paper else None


def read_paper() -> list[PaperNumber]:
    content = json.loads(resources.files(__package__).joinpath("paper.json").read_text())
    return [PaperNumber(**x) for x in content["numbers"]]


def collect(rows: Sequence[Row], settings: Settings, seeds: Sequence[int]) -> list[Number]:
    """
    Returns:
        list[Number]: for each row those that the paper has, or else its main one.
    """
    paper = read_paper()
    numbers = []
    for row in rows:
        known: list[Any] = [x for x in paper if x.row == row.name]
        main = "AP" if row.training.name.startswith("COCO") else "AP50"
        for metric, number in [(x.metric, x) for x in known] or [(main, None)]:
            values, hours, records = [], [], []
            for seed in seeds:
                value = _value(row, settings, seed, metric)
                if value is not None:
                    values.append(value)
                    hours.append(_hours(row.training, settings, seed))
                    records += _records(row, settings, seed)
            numbers.append(Number(row, metric, number, values, hours, records))
    return numbers


def _value(row: Row, settings: Settings, seed: int, metric: str) -> float | None:
    """
    Returns:
        float | None: None if it is not there yet.
    """
    folder = settings.folder(row.training, seed)
    if not (folder / FINISHED).exists():
        return None
    if metric in (SECONDS, MEMORY):
        name, scale = ("time", 1.0) if metric == SECONDS else ("max_mem", 1 / 1024)
        values = [x[name] for x in read_metrics(folder) if name in x]
        summary = median if metric == SECONDS else max
        return summary(values) * scale if values else None
    if row.test == PLAIN:
        return _read_plain(folder / "results.json", metric)
    return _read_test(test_folder(settings, row.training, seed, row.test), metric)


def _read_plain(file: Path, metric: str) -> float | None:
    if not file.exists():  # there is no test set
        return None
    try:
        (plain,) = (x for x in json.loads(file.read_text()) if x["test"] == PLAIN)
        return plain["results"].get("bbox", {}).get(metric)  # VOC12's test set has none
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{file} is not what a training writes: {type(e).__name__}: {e}") from e


def _read_test(folder: Path, metric: str) -> float | None:
    file = folder / "ablation.csv"
    if not (folder / FINISHED).exists():
        return None
    with open(file, newline="") as f:
        values = [float(x[metric]) for x in csv.DictReader(f) if x.get(metric)]
    if len(values) > 1:
        raise InputError(f"{file} has {len(values)} rows with {metric}, not one.")
    # As results.json has it.
    return None if not values or math.isnan(values[0]) else values[0]


def _hours(training: Training, settings: Settings, seed: int) -> float:
    lines = read_metrics(settings.folder(training, seed))
    seconds = median([x["time"] for x in lines if "time" in x] or [0.0])
    return seconds * settings.config(training).SOLVER.MAX_ITER / 3600


def _records(row: Row, settings: Settings, seed: int) -> list[dict[str, str]]:
    files = [settings.folder(row.training, seed) / FINISHED]
    if row.test != PLAIN:
        files.append(test_folder(settings, row.training, seed, row.test) / FINISHED)
    return [json.loads(x.read_text()) for x in files]


def figure_3(settings: Settings, seeds: Sequence[int]) -> dict[str, dict[int, float]]:
    """
    Returns:
        by title of FIGURE_3 the mean loss over all RoIs by iteration, over the seeds that are done.
        Without those that have none.
    """
    curves = {}
    for title, row in FIGURE_3.items():
        dataset = settings.config(row.training).DATASETS.TRAIN[0]
        folders = [settings.folder(row.training, x) for x in seeds]
        runs = [x for x in (read_roi_losses(f, dataset) for f in folders) if x]
        common = set.intersection(*map(set, runs)) if runs else set()
        if common:
            curves[title] = {i: fmean(x[i] for x in runs) for i in sorted(common)}
    return curves
