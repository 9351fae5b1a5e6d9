"""
The page that compares two runs, comparison.html. Run A comes first in every pair.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, Optional

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.compared_dataset import ComparedDataset
from ..evaluation.error_breakdown import (
    WRONG,
    ErrorCounts,
    Judgement,
    Ranking,
    count_errors,
    find_best_threshold,
    find_threshold_of_precision,
    rank_detections,
)
from .curves import COLORS, Run, draw_scalars, find_scalars
from .judged_image import LABEL_SIZE, LETTERS, Pictures, show_image
from .page import write_page

__all__ = ["TrainedRun", "write_comparison"]

SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
NONE = "-"  # a missing number
BEST, SAME_PRECISION = "best F1", "same precision"


class TrainedRun(NamedTuple):
    """
    What a training leaves in its output folder.
    """

    name: str
    folder: Path
    config: dict[str, Any]  # config.yaml
    metrics: list[dict[str, float]]  # the lines of metrics.json
    results: list[dict[str, Any]]  # results.json, see :class:`Evaluation`


class Row(NamedTuple):
    """
    A value for A and B, None if it is missing: of a run, or the mean over several.
    """

    label: str
    a: Optional[float]
    b: Optional[float]
    # Standard deviations over the runs, None for fewer than two.
    deviation_a: Optional[float] = None
    deviation_b: Optional[float] = None

    @property
    def difference(self) -> Optional[float]:
        return None if self.a is None or self.b is None else self.b - self.a

    def cells(self) -> list[str]:
        """
        Returns:
            list[str]: A, B and the difference.
        """
        values = [
            NONE if x is None else f"{x:.1f}" + ("" if y is None else f" ± {y:.1f}")
            for x, y in ((self.a, self.deviation_a), (self.b, self.deviation_b))
        ]
        if self.difference is None:
            return [*values, NONE]
        return [*values, re.sub(r"^[+-](?=0\.0$)", "", f"{self.difference:+.1f}")]


class Level(NamedTuple):
    """
    The detections of both runs above a score threshold of each.
    """

    label: str
    thresholds: tuple[float, float]
    counts: tuple[ErrorCounts, ErrorCounts]

    @property
    def titles(self) -> tuple[str, str]:
        """
        Of the rows of A and B: the label once, after the thresholds if each run has its own.
        """
        if self.label in (BEST, SAME_PRECISION):
            a, b = self.thresholds
            return f"{a:.2f}, {self.label}", f"{b:.2f}"
        return self.label, ""


def write_comparison(
    folder: Path,
    runs: tuple[Sequence[TrainedRun], Sequence[TrainedRun]],
    datasets: Sequence[ComparedDataset],
    num_images: int,
    score_thresh: Optional[float] = None,
) -> list[str]:
    """
    Write index.html and its pictures.

    Args:
        folder (Path): an empty folder.
        runs: of A and of B. Curves and detections are those of the first of each, AP is the mean.
        num_images (int): show at most this many images of each dataset.
        score_thresh (float): hide detections with lower scores. None: the threshold of each run
            from :func:`find_best_threshold`.

    Returns:
        list[str]: what it says first, a line for each dataset.
    """
    runs_a, runs_b = runs
    first = runs_a[0], runs_b[0]
    curves = [Run(letter, run.metrics) for letter, run in zip(LETTERS, first, strict=True)]
    scalars = find_scalars(curves)
    draw_scalars(folder / "curves.png", curves, scalars)
    pictures = Pictures(folder)
    shown: dict[frozenset[str], str] = {}  # the dataset whose section shows these images
    sections: list[dict[str, Any]] = []
    for i, dataset in enumerate(datasets):
        files = frozenset(x.file_name for x in dataset.images)
        section = {
            "name": dataset.name,
            "tests": compare_results(
                [x.results for x in runs_a], [x.results for x in runs_b], dataset.name
            ),
            "same_as": shown.get(files),
        }
        if files not in shown:
            shown[files] = dataset.name
            section |= _compare_detections(dataset, pictures, i, num_images, score_thresh)
        sections.append(section)
    verdicts = [summarize(x) for x in sections]
    write_page(
        folder / "index.html",
        "comparison.html",
        runs=dict(zip(LETTERS, first, strict=True)),
        others=dict(zip(LETTERS, (runs_a[1:], runs_b[1:]), strict=True)),
        config=compare_configs(*(x.config for x in first)),
        scalars=scalars,
        label_size=LABEL_SIZE,
        datasets=sections,
        verdicts=verdicts,
        broken=pictures.broken,
        wrong=WRONG,
    )
    return verdicts


def summarize(section: Mapping[str, Any]) -> str:
    """
    Args:
        section: the template's variables for a dataset.

    Returns:
        str: a line, such as "cats: AP 30.1 (A), 31.3 (B), +1.2. At the same precision, 81 %, scores
        of at least 0.78 (A), 0.31 (B), and a recall of 70 % (A), 74 % (B)."
    """
    words = []
    for test, tables in section["tests"].items():
        for row in tables.get("of all classes", []):
            if row.label == "AP":
                a, b, difference = row.cells()
                task = "" if test == "plain, bbox" else f" ({test})"
                words.append(f"AP{task} {a} (A), {b} (B), {difference}")
    sentence = f"{section['name']}: {'; '.join(words) or 'no test in common'}."
    for level in section["judged"][0].levels if "judged" in section else ():
        if level.label == SAME_PRECISION:
            (thresh_a, thresh_b), (a, b) = level.thresholds, level.counts
            sentence += (
                f" At the same precision, {a.precision:.0%}, scores of at least {thresh_a:.2f} "
                f"(A), {thresh_b:.2f} (B), and a recall of {a.recall:.0%} (A), {b.recall:.0%} (B)."
            )
    return sentence


def compare_configs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """
    Returns:
        dict[str, tuple[str, str]]: the values that differ, by key, such as "SOLVER.BASE_LR".
        OUTPUT_DIR, which always differs, is left out.
    """
    flat = [dict(_flatten(x)) for x in (a, b)]
    values = {
        key: tuple(str(x[key]) if key in x else NONE for x in flat)
        for key in sorted(flat[0].keys() | flat[1].keys())
    }
    return {k: (a, b) for k, (a, b) in values.items() if a != b and k != "OUTPUT_DIR"}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            items += _flatten(value, f"{prefix}{key}.")
        else:
            items.append((f"{prefix}{key}", value))
    return items


def compare_results(
    a: Sequence[Sequence[Mapping[str, Any]]],
    b: Sequence[Sequence[Mapping[str, Any]]],
    dataset: str,
) -> dict[str, dict[str, list[Row]]]:
    """
    Args:
        a, b: the content of results.json of each run.
        dataset (str): the dataset whose results to compare.

    Returns:
        dict[str, dict[str, list[Row]]]: rows by test and task that both have, and by metric: means
        over all classes, and those of each class by decreasing difference.
    """
    results_a, results_b = (_by_test(x, dataset) for x in (a, b))
    return {
        test: _to_tables(results_a[test], results_b[test])
        for test in results_a
        if test in results_b
    }


def _by_test(
    runs: Sequence[Sequence[Mapping[str, Any]]], dataset: str
) -> dict[str, dict[str, list[float]]]:
    """
    Returns:
        dict: by test and task, and by metric, the values of the runs that have it.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for results in runs:
        for x in results:
            for task, metrics in x["results"].items() if x["dataset"] == dataset else ():
                of_test = values.setdefault(f"{x['test']}, {task}", {})
                for name, value in metrics.items():
                    is_there = value is not None and not math.isnan(value)
                    of_test.setdefault(name, []).extend([value] if is_there else [])
    return values


def _to_tables(
    a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]
) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for name in a:
        if name in b:
            metric, _, class_name = name.partition("-")  # such as AP50-bird
            table = f"{metric} of a class" if class_name else "of all classes"
            pair = a[name], b[name]
            means = [fmean(x) if x else None for x in pair]
            deviations = [stdev(x) if len(x) > 1 else None for x in pair]
            tables.setdefault(table, []).append(Row(class_name or metric, *means, *deviations))
    return {
        title: rows if title == "of all classes" else sorted(rows, key=_by_difference)
        for title, rows in tables.items()
    }


def _by_difference(row: Row) -> float:
    return math.inf if row.difference is None else -row.difference


class JudgedRuns(NamedTuple):
    """
    The detections of both runs on a dataset, judged by boxes, masks or keypoints.
    """

    task: str
    num_objects: int
    judgements: tuple[list[Judgement], list[Judgement]]  # by run, of each image
    best: tuple[float, float]  # the thresholds of the best F1
    levels: list[Level]
    errors: str  # files of pictures
    precision: str

    @property
    def by(self) -> str:
        return {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}[self.task]

    @property
    def overlap(self) -> str:
        return "object keypoint similarity" if self.task == "keypoints" else "IoU"


def _judge_runs(dataset: ComparedDataset, task: str, folder: Path, index: int) -> JudgedRuns:
    """
    Args:
        folder (Path): for the pictures.
        index (int): of the dataset.
    """
    judged_a, judged_b = (dataset.judge(run, task) for run in range(2))
    ranked_a, ranked_b = rank_detections(judged_a), rank_detections(judged_b)
    best = find_best_threshold(ranked_a), find_best_threshold(ranked_b)
    thresholds = {f"{x:.1f}": (x, x) for x in SCORES} | {BEST: best}
    # That of A at its best.
    precision = count_errors(judged_a, best[0]).precision
    same = find_threshold_of_precision(ranked_b, precision) if precision > 0 else None
    if same is not None:
        thresholds[SAME_PRECISION] = best[0], same
    levels = [
        Level(label, (a, b), (count_errors(judged_a, a), count_errors(judged_b, b)))
        for label, (a, b) in thresholds.items()
    ]
    judged = JudgedRuns(
        task,
        ranked_a.num_objects,
        (judged_a, judged_b),
        best,
        levels,
        errors=f"errors_{index + 1}_{task}.png",
        precision=f"precision_{index + 1}_{task}.png",
    )
    draw_errors(folder / judged.errors, levels)
    draw_precision(folder / judged.precision, (ranked_a, ranked_b), best)
    return judged


def _compare_detections(
    dataset: ComparedDataset,
    pictures: Pictures,
    index: int,
    num_images: int,
    score_thresh: Optional[float],
) -> dict[str, Any]:
    """
    Returns:
        dict: the template's variables for the detections on a dataset.
    """
    judged = [_judge_runs(dataset, x, pictures.folder, index) for x in dataset.tasks]
    shown = judged[-1]  # by masks or keypoints, if there are any
    shown_from = shown.best if score_thresh is None else (score_thresh, score_thresh)
    errors_a, errors_b = (
        [count_errors([x], thresh).errors for x in judgements_of_run]
        for judgements_of_run, thresh in zip(shown.judgements, shown_from, strict=True)
    )
    groups = choose_images(errors_a, errors_b, num_images)
    return {
        "num_images": len(dataset.images),
        "judged": judged,
        "without_detections": [
            letter
            for letter, x in zip(LETTERS, shown.judgements, strict=True)
            if not sum(len(y.scores) for y in x)
        ],
        "shown_by": shown.by,
        "shown_from": shown_from,
        "is_best": score_thresh is None,
        "groups": {
            letter: [
                show_image(
                    dataset, i, shown.task, [x[i] for x in shown.judgements], shown_from, pictures
                )
                for i in indices
            ]
            for letter, indices in groups.items()
        },
    }


def choose_images(
    errors_a: Sequence[int], errors_b: Sequence[int], count: int
) -> dict[str, list[int]]:
    """
    Args:
        errors_a, errors_b: number of errors in each image.
        count (int): choose at most this many images.

    Returns:
        dict[str, list[int]]: indices of half of the images for each run: those where it has fewer
        errors, by decreasing difference.
    """
    more = [a - b for a, b in zip(errors_a, errors_b, strict=True)]  # of A
    order = sorted(range(len(more)), key=lambda i: -abs(more[i]))
    return {
        "B": [i for i in order if more[i] > 0][: (count + 1) // 2],
        "A": [i for i in order if more[i] < 0][: count // 2],
    }


def draw_precision(path: Path, rankings: Sequence[Ranking], best: Sequence[float]) -> None:
    """
    Draw precision by recall of both runs, and a dot where each has its best F1.
    """
    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    ax = figure.subplots()
    for letter, color, style, ranking, thresh in zip(
        LETTERS, COLORS, ("-", "--"), rankings, best, strict=True
    ):
        recall, precision = (100 * x for x in (ranking.recall, ranking.precision))
        ax.plot(recall, precision, style, color=color, label=letter)
        at = (ranking.thresholds >= thresh).sum() - 1
        if at >= 0:
            ax.plot(recall[at], precision[at], "o", color=color)
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 102)
    ax.set_xlabel("recall, %", fontsize=8)
    ax.set_ylabel("precision, %", fontsize=8)
    _style(ax)
    figure.savefig(path)


def draw_errors(path: Path, levels: Sequence[Level]) -> None:
    """
    Draw a panel for right detections, missed objects and each kind of error, with bars of both runs
    at each level.
    """
    figure = Figure(figsize=(11, 5), dpi=110, layout="constrained")
    axes = figure.subplots(2, 3).flat
    for ax, kind in zip(axes, ("right", "missed", *WRONG), strict=True):
        for i, (letter, color) in enumerate(zip(LETTERS, COLORS, strict=True)):
            counts = [x.counts[i] for x in levels]
            ax.bar(
                [x + 0.4 * (i - 0.5) for x in range(len(levels))],
                [x.wrong[kind] if kind in WRONG else getattr(x, kind) for x in counts],
                width=0.36,
                color=color,
                hatch="//" * i,
                edgecolor="white",
                label=letter,
            )
        _finish(ax, kind, [x.label.replace(" ", "\n") for x in levels])
    figure.savefig(path)


def _finish(ax: Axes, title: str, labels: Sequence[str]) -> None:
    ax.set_title(title, fontsize=9)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlabel("score of at least", fontsize=8)
    _style(ax)


def _style(ax: Axes) -> None:
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
