"""
What the recorded runs say, in numbers and tables.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from benchmarks.differences import Difference, paired_difference
from benchmarks.measure import listed, make_table, mean_and_deviation, number
from benchmarks.provenance import made_by
from benchmarks.sampling.experiments import DATASETS, EXPERIMENTS, POOL, RECIPES

__all__ = [
    "Comparison",
    "ap_by_pool",
    "ap_by_seed",
    "compare_with_random",
    "experiment_tables",
    "half_precision_table",
    "recipes_table",
    "summary_table",
    "verdict",
]

# Fewer seeds are in the tables of an experiment, and not in the short answer: their interval says
# nothing.
MIN_SEEDS = 3

COMMAND = "python -m benchmarks.sampling.compare --data DATA --classifier CLASSIFIER"


def ap_by_seed(runs: pd.DataFrame, dataset: str, recipes: Sequence[str]) -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: the AP of a row per seed and a column per recipe, NaN where a run is missing.
    """
    table = runs[runs["dataset"] == dataset].pivot(index="seed", columns="recipe", values="AP")
    return table.reindex(columns=list(recipes)).astype(float)


def step_ratio(runs: pd.DataFrame, dataset: str, recipe: str, references: Sequence[str]) -> float:
    """
    Returns:
        float: time of an iteration of a recipe, divided by that of the references on the same
        machine and day: the median over the seeds. NaN if no machine ran both on one day.
    """
    here = ["machine", "date"]
    runs = runs[runs["dataset"] == dataset].set_index(here)
    seconds = runs["seconds_per_iteration"].astype(float)
    reference = seconds[runs["recipe"].isin(references)].groupby(here).median()
    return float((seconds[runs["recipe"] == recipe] / reference).median())


class Comparison(NamedTuple):
    """
    OHEM beside random sampling: a row of the first table of docs/results.md, with the AP by seed,
    of the seeds that ran with both.
    """

    dataset: str
    iterations: int
    random: pd.Series
    mined: pd.Series  # at equal iterations
    difference: Difference
    longer: pd.Series  # random sampling at equal time, NaN where a run is missing
    longer_difference: Difference  # OHEM's AP minus that
    step_ratio: float

    @property
    def noun(self) -> str:
        title = DATASETS[self.dataset].title
        return title[0].lower() + title[1:]


def compare_with_random(runs: pd.DataFrame) -> list[Comparison]:
    comparisons = []
    for experiment in (EXPERIMENTS["main"], EXPERIMENTS["longer"]):
        random, mined, *_, longer = experiment.recipes
        for dataset in experiment.datasets:
            ap = ap_by_seed(runs, dataset, (random, mined, longer)).dropna(subset=[random, mined])
            if len(ap) < MIN_SEEDS:
                continue
            these = runs[(runs["dataset"] == dataset) & (runs["recipe"] == mined)]
            comparisons.append(
                Comparison(
                    dataset,
                    int(these["iterations"].iloc[0]),
                    ap[random],
                    ap[mined],
                    paired_difference(ap[mined], ap[random]),
                    ap[longer],
                    paired_difference(ap[mined], ap[longer]),
                    step_ratio(runs, dataset, mined, (random, longer)),
                )
            )
    return sorted(comparisons, key=lambda x: list(DATASETS).index(x.dataset))


def summary_table(comparisons: Sequence[Comparison]) -> str:
    rows = [
        {
            "dataset": f"{DATASETS[x.dataset].title}, {x.iterations:,} iterations",
            "detector": DATASETS[x.dataset].detector,
            "AP, random": mean_and_deviation(x.random),
            "AP, OHEM, equal iterations": mean_and_deviation(x.mined),
            "difference (95 % interval)": x.difference.text,
            "n": len(x.difference.values),
            "AP, random, equal time": mean_and_deviation(x.longer.dropna()),
            "step time ratio": number(x.step_ratio, 2),
        }
        for x in comparisons
    ]
    return make_table(rows, num_left=2)


def verdict(comparisons: Sequence[Comparison], name: str) -> str:
    """
    Args:
        name (str): "difference" or "longer_difference".

    Returns:
        str: "significantly higher on cats (700 iterations: +3.0) and cows (700 iterations: +2.0);
        not significantly different on dogs (700 iterations: -0.4)".
    """
    phrases = []
    for sign, words in (
        (1, "significantly higher"),
        (-1, "significantly lower"),
        (0, "not significantly different"),
    ):
        names = [
            f"{x.noun} ({x.iterations:,} iterations: {getattr(x, name).mean:+.1f})"
            for x in comparisons
            if getattr(x, name).values and getattr(x, name).sign == sign
        ]
        if names:
            phrases.append(f"{words} on {listed(names)}")
    return "; ".join(phrases)


def experiment_tables(runs: pd.DataFrame, name: str) -> str:
    """
    Returns:
        str: for each dataset of an experiment that has runs, a table of its recipes, and one of
        the AP of each seed.
    """
    experiment = EXPERIMENTS[name]
    blocks = []
    for dataset in experiment.datasets:
        these = runs[
            (runs["dataset"] == dataset)
            & runs["recipe"].isin(experiment.recipes)
            & runs["seed"].isin(experiment.seeds)
        ]
        if these.empty:
            continue
        ap = ap_by_seed(these, dataset, experiment.recipes).dropna(axis=1, how="all")
        reference = experiment.recipes[0]
        random = [x for x in experiment.recipes if x.startswith("stock")]
        rows = []
        for recipe in ap:
            of_recipe = these[these["recipe"] == recipe]
            rows.append(
                {
                    "recipe": RECIPES[recipe].title,
                    "n": len(of_recipe),
                    "AP": mean_and_deviation(of_recipe["AP"]),
                    "AP50": mean_and_deviation(of_recipe["AP50"]),
                    "difference in AP": ""
                    if recipe == reference or reference not in ap
                    else paired_difference(ap[recipe], ap[reference]).text,
                    "trained on, fg : bg": _kept(of_recipe),
                    "step time ratio": number(step_ratio(these, dataset, recipe, random), 2),
                }
            )
        if not experiment.has_times:
            rows = [{k: x for k, x in row.items() if k != "step time ratio"} for row in rows]
        if len(experiment.seeds) == 1:  # there is nothing to compare
            keys = ("recipe", "AP", "AP50", "trained on, fg : bg")
            rows = [{k: row[k] for k in keys} for row in rows]
        blocks += [f"**{DATASETS[dataset].title}**", make_table(rows)]
        num_diverged = int(these["diverged_at"].notna().sum())
        if num_diverged:
            blocks.append(f"{num_diverged} runs diverged; each counts as an AP of 0.")
        if len(experiment.seeds) > 1:
            seeds = [{"seed": RECIPES[k].title, **x.map(number)} for k, x in ap.items()]
            summary = f"{DATASETS[dataset].title}: the AP of each seed"
            blocks += [f"<details><summary>{summary}</summary>", make_table(seeds), "</details>"]
        blocks.append(made_by(f"{COMMAND} '{name}'", these))
    return "\n\n".join(blocks)


def recipes_table() -> str:
    """
    Returns:
        str: a table of what the recipes set over the config of the dataset.
    """
    rows = [
        {
            "recipe": x.title,
            "options": ", ".join(f"`{k} {v}`" for k, v in x.options.items()) or "-",
        }
        for x in RECIPES.values()
    ]
    return make_table(rows, num_left=2)


def ap_by_pool(runs: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: the AP of each run of the experiment "pool", with what is mined ("stock",
        "paper" or "background") and "pool_size", 0 for all RoIs.
    """
    sizes = {
        recipe: (kind, RECIPES[recipe].options.get("MODEL.OHEM.POOL_SIZE", 0))
        for kind, recipes in {"stock": (), **POOL}.items()
        for recipe in (*recipes, kind)
    }
    these = runs[
        (runs["dataset"] == dataset)
        & runs["recipe"].isin(sizes)
        & runs["seed"].isin(EXPERIMENTS["pool"].seeds)
    ]
    kinds = pd.DataFrame(
        [sizes[x] for x in these["recipe"]], columns=["mining", "pool_size"], index=these.index
    )
    return kinds.join(these[["seed", "AP"]])


def half_precision_table(runs: pd.DataFrame) -> str:
    """
    Returns:
        str: by dataset and precision, how much of what mining keeps is what float32 keeps: the
        mean over trained models, and the worst of them.
    """
    rows = []
    measured = runs[runs["half_precision"].notna()]
    for dataset, models in measured.groupby("dataset", sort=False):
        for precision in ("bfloat16", "float16"):
            values = pd.DataFrame([x[precision] for x in models["half_precision"]])
            rows.append(
                {
                    "dataset": DATASETS[dataset].title,
                    "read-only pass in": precision,
                    "trained models": len(values),
                    "same RoIs": f"{values['shared'].mean():.2%}",
                    "worst model": f"{values['shared'].min():.2%}",
                    "their loss, relative to float32's": f"{values['loss_ratio'].mean():.5f}",
                }
            )
    return f"{make_table(rows, 2)}\n\n{made_by(COMMAND, measured)}"


def _kept(runs: pd.DataFrame) -> str:
    """
    Returns:
        str: "7.0 : 25.0 → 11.0 : 21.0", foreground and background RoIs per image that are trained
        on, in the first and in the last tenth of the training.
    """
    columns = ["iteration", "num_fg", "num_bg"]
    curves = pd.concat(pd.DataFrame(x)[columns] for x in runs["curves"])
    curves = curves.groupby("iteration").mean()
    tenth = math.ceil(len(curves) / 10)
    ends = [x.mean() for x in (curves.head(tenth), curves.tail(tenth))]
    return " → ".join(f"{x['num_fg']:.1f} : {x['num_bg']:.1f}" for x in ends)
