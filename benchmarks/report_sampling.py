"""
What the runs of benchmarks/compare_sampling.py say: tables, numbers for sentences, and what the
pictures of them show.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple, Optional

from kept_rois import BANDS
from measure import make_table
from paired import Difference, Spread, paired_difference, spread
from report_plots import Line
from report_text import NOT_YET, made_by
from result_files import Result, ResultError, look_up
from sampling_experiments import DATASETS, EXPERIMENTS, RECIPES, Experiment, Run, value_of

__all__ = ["LINES", "SamplingReport"]

COMPARE = "python benchmarks/compare_sampling.py --data DATA --classifier squeezenet1_0.pth"


class SamplingReport:
    """
    Runs that are planned and not there are left out, and counted.
    """

    def __init__(self, runs: Mapping[Run, Result]):
        self._runs = runs

    def template_functions(self) -> dict[str, Callable]:
        return {
            "experiment": self.experiment,
            "by_value": self.by_value,
            "hard_by_iou": self.hard_by_iou,
            "border_share": self.border_share,
            "options": self.options,
            "ap": self.ap,
            "ap50": self.ap50,
            "difference": self.difference,
            "time_ratio": self.time_ratio,
        }

    def experiment(self, name: str, dataset: Optional[str] = None) -> str:
        """
        What an experiment asks, and its tables: for each dataset, or one, a row for each recipe.
        """
        experiment = _experiment(name)
        datasets = (dataset,) if dataset else experiment.datasets
        blocks = [experiment.question, *(self._tables(name, x) for x in datasets)]
        return "\n\n".join([*blocks, self._made_by_runs(name, datasets)])

    def ap(self, experiment: str, dataset: str, recipe: str) -> Spread:
        """
        AP over the seeds: `.text` is "15.7 ± 1.2"; `.mean`, `.sd`, `.n`.
        """
        return _spread_of(self._results(experiment, dataset, recipe).values(), "ap")

    def ap50(self, experiment: str, dataset: str, recipe: str) -> Spread:
        """
        The same of AP50.
        """
        return _spread_of(self._results(experiment, dataset, recipe).values(), "ap50")

    def difference(
        self, experiment: str, dataset: str, recipe: str, reference: Optional[str] = None
    ) -> Difference:
        """
        What a recipe has more in AP than the experiment's first, or another one, on the same seeds:
        `.text` is "+4.3 AP (95 % interval 1.2 to 7.4, five seeds)"; `.mean`, `.low`, `.high`, `.n`,
        `.wins`, `.sign`.
        """
        results = self._results(experiment, dataset, recipe)
        others = self._results(experiment, dataset, reference or _experiment(experiment).recipes[0])
        seeds = [x for x in results if x in others]
        return paired_difference(
            [results[x].ap_or_0 for x in seeds], [others[x].ap_or_0 for x in seeds]
        )

    def time_ratio(self, experiment: str, dataset: str, recipe: str) -> float:
        """
        How many times as long as the experiment's first recipe it trains: the median over the seeds
        for which both were run on one machine and did not diverge. NaN without any.
        """
        results = self._results(experiment, dataset, recipe)
        others = self._results(experiment, dataset, _experiment(experiment).recipes[0])
        ratios = [
            result.seconds / others[seed].seconds
            for seed, result in results.items()
            if seed in others
            and result.ap is not None
            and others[seed].ap is not None
            and result.provenance["machine"] == others[seed].provenance["machine"]
        ]
        return median(ratios) if ratios else math.nan

    def by_value(self, name: str) -> str:
        """
        The tables of an experiment that varies a key, and whose recipes are named "stock",
        "stock, LR 0.01" and so on: for each dataset a row for each recipe, a column for each value.
        """
        experiment = _experiment(name)
        if experiment.varied is None:
            raise ResultError(f"Experiment {name} varies no key: use experiment({name!r}).")
        blocks = [experiment.question]
        for dataset in experiment.datasets:
            rows: dict[str, dict[float, str]] = {}
            for recipe in experiment.recipes:
                row = rows.setdefault(recipe.partition(", ")[0], {})
                results = self._results(name, dataset, recipe)
                row[value_of(dataset, recipe, experiment.varied)] = _ap_cell(results.values())
            values = sorted({x for row in rows.values() for x in row})
            table = make_table(
                [f"`{experiment.varied}`", *(f"{x:g}" for x in values)],
                [[_title(r), *(row.get(x, "-") for x in values)] for r, row in rows.items()],
            )
            blocks.append(f"**{DATASETS[dataset].title}**, AP\n\n{table}")
            blocks.append(self._seeds_so_far(experiment, dataset))
        return "\n\n".join([*blocks, self._made_by_runs(name, experiment.datasets)])

    def hard_by_iou(self, name: str, recipe: str) -> str:
        """
        Where the RoIs lie that are hard for the detectors of a recipe, by their IoU with an object:
        how many an image, as the mean over the seeds.
        """
        bounds = [f"{x:g}"[1:] for x in BANDS]
        headers = [
            f"below {bounds[0]}",
            *(f"{low} to {high}" for low, high in pairwise(bounds)),
            f"{bounds[-1]} and more",
        ]
        rows = []
        for dataset in _experiment(name).datasets:
            for which, title in (("all", "all RoIs"), ("hard", "the hardest, after NMS")):
                counts = self._by_iou(name, dataset, recipe, which)
                if counts:
                    cells = [f"{fmean(x):.1f}" for x in zip(*counts, strict=True)]
                    rows.append([f"{DATASETS[dataset].title}, {title}", *cells])
        return make_table(["IoU", *headers], rows) if rows else NOT_YET

    def border_share(self, name: str, dataset: str, recipe: str, which: str) -> float:
        """
        The share of all RoIs, or of the "hard" ones, whose IoU is within .1 of the foreground's
        threshold: the bands on both sides of the middle of BANDS. NaN without a result.
        """
        counts = self._by_iou(name, dataset, recipe, which)
        return fmean(sum(x[2:4]) / sum(x) for x in counts) if counts else math.nan

    def _by_iou(self, name: str, dataset: str, recipe: str, which: str) -> list[list[float]]:
        results = self._results(name, dataset, recipe).values()
        return [x.hard_by_iou[which] for x in results if x.hard_by_iou]

    def options(self, *names: str) -> str:
        """
        A table of what the recipes of experiments set over the config of the dataset.
        """
        rows = [
            [_title(x), ", ".join(f"`{k} {v}`" for k, v in RECIPES[x].options.items()) or "-"]
            for x in dict.fromkeys(x for name in names for x in _experiment(name).recipes)
        ]
        return make_table(["recipe", "sets"], rows, num_left=2)

    def reference_title(self, name: str) -> str:
        return _title(_experiment(name).recipes[0])

    def difference_panels(self, name: str) -> dict[str, dict[str, Difference]]:
        """
        Returns:
            for :func:`draw_differences`.
        """
        experiment = _experiment(name)
        panels: dict[str, dict[str, Difference]] = {}
        for dataset in experiment.datasets:
            for recipe in experiment.recipes[1:]:
                difference = self.difference(name, dataset, recipe)
                if difference.n:
                    rows = panels.setdefault(DATASETS[dataset].title, {})
                    rows[_title(recipe)] = difference
        return panels

    def line_panels(
        self, name: str, experiment: str, recipes: Optional[Sequence[str]] = None
    ) -> dict[str, list[Line]]:
        """
        Args:
            name (str): of LINES.
            recipes: some of the experiment's. None: all.

        Returns:
            for :func:`draw_lines`.
        """
        order = _experiment(experiment).recipes
        panels: dict[str, list[Line]] = {}
        for dataset in _experiment(experiment).datasets:
            for recipe in recipes or order:
                results = self._results(experiment, dataset, recipe).values()
                seeds = [LINES[name].values(x) for x in results if x.ap is not None]
                # Where all seeds have a value: a mean over fewer would jump.
                iterations = sorted(set.intersection(*map(set, seeds))) if seeds else []
                if iterations:
                    values = {i: [x[i] for x in seeds] for i in iterations}
                    lines = panels.setdefault(DATASETS[dataset].title, [])
                    lines.append(Line(_title(recipe), order.index(recipe), values))
        return panels

    def _results(self, experiment: str, dataset: str, recipe: str) -> dict[int, Result]:
        """
        By seed, of those runs of an experiment that are there.
        """
        spec = _experiment(experiment)
        look_up(spec.datasets, dataset, f"experiment {experiment}: dataset")
        look_up(spec.recipes, recipe, f"experiment {experiment}: recipe")
        runs = [Run(dataset, recipe, seed) for seed in spec.seeds]
        return {x.seed: self._runs[x] for x in runs if x in self._runs}

    def _tables(self, name: str, dataset: str) -> str:
        experiment = _experiment(name)
        results = {x: self._results(name, dataset, x) for x in experiment.recipes}
        shown = {recipe: x for recipe, x in results.items() if x}
        title = f"**{DATASETS[dataset].title}**"
        if not shown:
            return f"{title}\n\n{self._seeds_so_far(experiment, dataset)}"
        rows, seeds = [], []
        for recipe, by_seed in shown.items():
            is_reference = recipe == experiment.recipes[0]
            rows.append(
                [
                    _title(recipe),
                    _ap_cell(by_seed.values()),
                    _ap_cell(by_seed.values(), "ap50"),
                    "" if is_reference else self.difference(name, dataset, recipe).cell,
                    _kept_cell(by_seed.values()),
                    self._time_cell(name, dataset, recipe),
                ]
            )
            seeds.append([_title(recipe), *(_seed_cell(by_seed.get(x)) for x in experiment.seeds)])
        headers = ["recipe", "AP", "AP50", "difference in AP", "kept fg : bg", "seconds (ratio)"]
        each = make_table(["seed", *map(str, experiment.seeds)], seeds)
        notes = [self._seeds_so_far(experiment, dataset)]
        if any(x.ap is None for by_seed in shown.values() for x in by_seed.values()):
            notes.append(
                "AP and AP50 are means over the runs that did not diverge; in a difference, one "
                "that did counts as an AP of 0."
            )
        return "\n\n".join(
            [
                title,
                make_table(headers, rows),
                f"<details><summary>{DATASETS[dataset].title}: the AP of each seed</summary>",
                each,
                "</details>",
                " ".join(notes),
            ]
        )

    def _time_cell(self, experiment: str, dataset: str, recipe: str) -> str:
        results = self._results(experiment, dataset, recipe).values()
        seconds = [x.seconds for x in results if x.ap is not None]
        if not seconds:
            return "-"
        ratio = self.time_ratio(experiment, dataset, recipe)
        return f"{median(seconds):.0f} ({'-' if math.isnan(ratio) else f'{ratio:.2f}'})"

    def _seeds_so_far(self, experiment: Experiment, dataset: str) -> str:
        planned = len(experiment.seeds)
        counts = {
            x: sum(Run(dataset, x, seed) in self._runs for seed in experiment.seeds)
            for x in experiment.recipes
        }
        if not any(counts.values()):
            return f"{NOT_YET[:-2]}: {planned * len(counts)} runs are planned.*"
        missing = [f"{_title(x)}: {n}" for x, n in counts.items() if n < planned]
        if missing:
            seeds = [f"{x} of {planned} seeds so far" for x in missing]
            return f"**Not complete. {'; '.join(seeds)}.**"
        return f"All {planned} seeds." if planned > 1 else "One seed."

    def _made_by_runs(self, name: str, datasets: Iterable[str]) -> str:
        lines = [
            x.provenance
            for dataset in datasets
            for recipe in _experiment(name).recipes
            for x in self._results(name, dataset, recipe).values()
        ]
        return made_by(f"{COMPARE} {shlex.quote(name)}", lines)


def _kept_share(result: Result) -> dict[int, float]:
    return {i: fg / (fg + bg) for i, (fg, bg) in result.kept.items() if fg + bg}


class Curve(NamedTuple):
    title: str
    values: Callable[[Result], dict[int, float]]  # by iteration


# What pictures show over the training.
LINES = {
    "mean_roi_loss": Curve("mean loss over all RoIs", lambda x: x.mean_roi_loss),
    "kept": Curve("share of foreground in the kept RoIs", _kept_share),
}


def _experiment(name: str) -> Experiment:
    look_up(EXPERIMENTS, name, "experiment")
    return EXPERIMENTS[name]


def _title(recipe: str) -> str:
    return RECIPES[recipe].title if recipe in RECIPES else recipe


def _spread_of(results: Iterable[Result], metric: str) -> Spread:
    return spread([getattr(x, metric) for x in results if x.ap is not None])


def _ap_cell(results: Iterable[Result], metric: str = "ap") -> str:
    """
    "15.7 ± 1.2", "15.7 ± 1.2 (2 of 5 diverged)", or "diverged at 117" of a single run.
    """
    results = list(results)
    survivors = _spread_of(results, metric)
    diverged = sorted(x.diverged_at for x in results if x.diverged_at is not None)
    if metric != "ap" or not diverged:  # once in a row is enough
        return survivors.text if survivors.n else "-"
    at = ", ".join(map(str, diverged))
    if len(results) == 1:
        return f"diverged at {at}"
    count = f"{len(diverged)} of {len(results)} diverged"
    return f"{survivors.text} ({count})" if survivors.n else f"{count}, at {at}"


def _seed_cell(result: Optional[Result]) -> str:
    if result is None:
        return "not yet"
    return f"diverged at {result.diverged_at}" if result.ap is None else f"{result.ap:.1f}"


def _kept_cell(results: Iterable[Result]) -> str:
    """
    RoIs an image in the first and in the last tenth of the training, as the mean over the runs that
    came to its end.
    """
    series = [list(x.kept.values()) for x in results if x.ap is not None and x.kept]
    if not series:
        return "-"
    ends = []
    for part in (lambda x, n: x[:n], lambda x, n: x[-n:]):
        tenths = [part(x, -(-len(x) // 10)) for x in series]
        fg, bg = (fmean(fmean(pair[i] for pair in x) for x in tenths) for i in (0, 1))
        ends.append(f"{fg:.1f} : {bg:.1f}")
    return " → ".join(ends)
