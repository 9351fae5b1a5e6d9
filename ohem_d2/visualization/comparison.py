"""
The page that compares two runs, comparison.html. Run A comes first in every pair.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, Optional

from detectron2.structures import Boxes, Instances
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.error_breakdown import (
    VERDICTS,
    WRONG,
    ErrorCounts,
    Judgement,
    Ranking,
    count_errors,
    find_best_threshold,
    find_threshold_of_precision,
    judge_detections,
    rank_detections,
)
from .curves import COLORS, Run, draw_scalars, find_scalars
from .page import write_page
from .picture_files import read_picture, write_jpeg

__all__ = ["ComparedDataset", "ComparedImage", "TrainedRun", "write_comparison"]

SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
LETTERS = ("A", "B")  # in pictures, because matplotlib's font lacks characters of names
LONGER_SIDE = 800  # of the pictures, in pixels
LABEL_SIZE = 0.028  # of the width of a picture
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


class ComparedImage(NamedTuple):
    file_name: str
    height: int
    width: int
    objects: Instances  # with "gt_boxes" and "gt_classes"
    ignored: Boxes  # crowds and difficult objects
    # By run, with "pred_boxes", "scores" and "pred_classes".
    detections: tuple[Instances, Instances]


class ComparedDataset(NamedTuple):
    name: str
    class_names: Sequence[str]
    images: list[ComparedImage]

    def judge(self, run: int) -> list[Judgement]:
        """
        Args:
            run (int): 0 for A, 1 for B.

        Returns:
            list[Judgement]: of its detections on each image.
        """
        return [judge_detections(x.detections[run], x.objects, x.ignored) for x in self.images]


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


class Mark(NamedTuple):
    """
    A box on a picture, with its label.
    """

    kind: str  # "object", "missed" or a verdict
    box: list[float]  # XYXY
    text: str = ""
    text_at: tuple[float, float] = (0.0, 0.0)
    text_anchor: str = "start"  # or "end", as in SVG


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

    Raises:
        InputError: if an image that is shown cannot be read.
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
    for level in section.get("levels", []):
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


def _compare_detections(
    dataset: ComparedDataset,
    pictures: "Pictures",
    index: int,
    num_images: int,
    score_thresh: Optional[float],
) -> dict[str, Any]:
    """
    Returns:
        dict: the template's variables for the detections on a dataset.
    """
    judged_a, judged_b = map(dataset.judge, range(2))
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
    picture = f"errors_{index + 1}.png"
    draw_errors(pictures.folder / picture, levels)
    curve = f"precision_{index + 1}.png"
    draw_precision(pictures.folder / curve, (ranked_a, ranked_b), best)

    shown_from = best if score_thresh is None else (score_thresh, score_thresh)
    errors_a, errors_b = (
        [count_errors([x], thresh).errors for x in judgements_of_run]
        for judgements_of_run, thresh in zip((judged_a, judged_b), shown_from, strict=True)
    )
    groups = choose_images(errors_a, errors_b, num_images)
    return {
        "num_images": len(dataset.images),
        "num_objects": sum(len(x.objects) for x in dataset.images),
        "levels": levels,
        "errors": picture,
        "precision": curve,
        "without_detections": [
            letter
            for letter, x in zip(LETTERS, (judged_a, judged_b), strict=True)
            if not sum(len(y.scores) for y in x)
        ],
        "shown_from": shown_from,
        "is_best": score_thresh is None,
        "groups": {
            letter: [
                _show(dataset, i, (judged_a[i], judged_b[i]), shown_from, pictures) for i in indices
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


class Pictures:
    """
    Copies of images. Each is made once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, str] = {}  # by file name of the image

    def add(self, file_name: str) -> str:
        """
        Returns:
            str: path of the copy within the folder.

        Raises:
            InputError: if the image cannot be read.
        """
        if file_name not in self._names:
            name = f"image_{len(self._names) + 1}.jpg"  # a name that any browser can open
            write_jpeg(self.folder / name, read_picture(file_name), LONGER_SIDE)
            self._names[file_name] = name
        return self._names[file_name]


def _show(
    dataset: ComparedDataset,
    index: int,
    judgements: Sequence[Judgement],
    thresholds: Sequence[float],
    pictures: Pictures,
) -> dict[str, Any]:
    """
    Returns:
        dict: the template's variables for an image.
    """
    image = dataset.images[index]
    return {
        "name": os.path.basename(image.file_name),
        "picture": pictures.add(image.file_name),
        "image": image,
        "sides": [
            {
                "letter": letter,
                "marks": _mark(image, found, judgement, thresh, dataset.class_names),
                "words": describe(count_errors([judgement], thresh)),
            }
            for letter, found, judgement, thresh in zip(
                LETTERS, image.detections, judgements, thresholds, strict=True
            )
        ],
    }


def _mark(
    image: ComparedImage,
    detections: Instances,
    judgement: Judgement,
    thresh: float,
    class_names: Sequence[str],
) -> list[Mark]:
    """
    Returns:
        list[Mark]: the boxes on the picture of one run, in drawing order.
    """
    marks = [Mark("ignored", box) for box in image.ignored.tensor.tolist()]
    for box, category, score in zip(
        image.objects.gt_boxes.tensor.tolist(),
        image.objects.gt_classes.tolist(),
        judgement.found_scores.tolist(),
        strict=True,
    ):
        if score >= thresh:
            marks.append(Mark("object", box))
        else:
            text = f"missed: {class_names[category]}"
            marks.append(Mark("missed", box, text, *_place(box, image, is_below=True)))
    for i in judgement.scores.argsort().tolist():
        if (score := float(judgement.scores[i])) >= thresh:
            box = detections.pred_boxes.tensor[i].tolist()
            text = f"{class_names[detections.pred_classes[i]]} {100 * score:.0f} %"
            kind = VERDICTS[judgement.verdicts[i]]
            marks.append(Mark(kind, box, text, *_place(box, image, is_below=False)))
    return marks


def _place(
    box: Sequence[float], image: ComparedImage, is_below: bool
) -> tuple[tuple[float, float], str]:
    """
    Returns:
        (tuple[float, float], str): position and anchor of the label of a box: outside the box but
        inside the picture.
    """
    x0, y0, x1, y1 = box
    size = LABEL_SIZE * image.width
    if is_below:
        y = y1 + size if y1 + 1.2 * size < image.height else y1 - 0.4 * size
    else:
        y = y0 - 0.4 * size if y0 > 1.4 * size else y0 + 1.1 * size
    return ((x1, y), "end") if x0 > 0.7 * image.width else ((x0, y), "start")


def describe(counts: ErrorCounts) -> str:
    """
    Returns:
        str: the counts in words, such as "2 right, 1 missed, 1 duplicate".
    """
    words = {"right": counts.right, "missed": counts.missed, **counts.wrong}
    return ", ".join(f"{n} {x}" for x, n in words.items() if n) or "nothing to find, and no error"


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
