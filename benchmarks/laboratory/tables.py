"""
What the recorded runs say, in numbers and tables.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmarks.differences import Difference, paired_difference
from benchmarks.laboratory.errors import RECALLS
from benchmarks.laboratory.experiments import Experiment, Run, Variant
from benchmarks.laboratory.laboratories import DATASETS, with_all_boxes
from benchmarks.laboratory.recipes import RECIPES
from benchmarks.measure import listed, make_table, mean_and_deviation, number
from benchmarks.provenance import made_by

__all__ = [
    "ap_by_seed",
    "background_errors",
    "best_settings",
    "changes_table",
    "difference",
    "differences",
    "diverged",
    "errors_table",
    "errors_verdict",
    "experiment_tables",
    "foreground",
    "mean_ap",
    "mean_difference",
    "mean_roi_losses",
    "recipe_difference",
    "roi_loss",
    "settings_table",
    "stability_table",
    "summary_table",
    "tally",
    "verdict",
]

COMMAND = "python -m benchmarks.laboratory.compare {} --data DATA --classifier CLASSIFIER"


def find(runs: pd.DataFrame, wanted: Sequence[Run]) -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: the recorded lines of these runs, as far as they are there.
    """
    keys = pd.Series(runs[list(Run._fields)].itertuples(index=False, name=None), index=runs.index)
    return runs[keys.isin([tuple(x) for x in wanted])]


def find_variant(
    runs: pd.DataFrame, experiment: Experiment, dataset: str, variant: Variant
) -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: the recorded lines of a variant's runs, as far as they are there.
    """
    return find(runs, [experiment.run(dataset, variant, seed) for seed in experiment.seeds])


def ap_by_seed(
    runs: pd.DataFrame, experiment: Experiment, dataset: str, variant: Variant
) -> pd.Series:
    """
    Returns:
        pd.Series: the AP by seed, of those that are recorded.
    """
    return find_variant(runs, experiment, dataset, variant).set_index("seed")["AP"].sort_index()


def mean_ap_by_seed(runs: pd.DataFrame, experiment: Experiment, variant: Variant) -> pd.Series:
    """
    Returns:
        pd.Series: the mean AP over the datasets by seed, of those that are recorded with all.
    """
    aps = [ap_by_seed(runs, experiment, x, variant) for x in experiment.datasets]
    return (sum(aps) / len(aps)).dropna()


def mean_ap(runs: pd.DataFrame, experiment: Experiment, recipe: str, **fields: Any) -> str:
    """
    Args:
        fields: of the variant, if the recipe has several.

    Returns:
        str: the mean AP over the datasets, its mean and deviation over the seeds, "40.7 ± 0.4".
    """
    variant = experiment.variant(recipe, **fields)
    return mean_and_deviation(mean_ap_by_seed(runs, experiment, variant))


def mean_difference(runs: pd.DataFrame, experiment: Experiment, recipe: str) -> str:
    """
    Returns:
        str: the difference in the mean AP over the datasets to the first recipe.
    """
    ap = mean_ap_by_seed(runs, experiment, experiment.variant(recipe))
    return paired_difference(ap, mean_ap_by_seed(runs, experiment, experiment.variants[0])).text


def difference(
    runs: pd.DataFrame,
    experiment: Experiment,
    dataset: str,
    variant: Variant,
    reference: Variant,
) -> Difference:
    return paired_difference(
        ap_by_seed(runs, experiment, dataset, variant),
        ap_by_seed(runs, experiment, dataset, reference),
    )


def experiment_tables(runs: pd.DataFrame, name: str, experiment: Experiment) -> str:
    """
    Returns:
        str: for each dataset of which several variants have runs, a table with a row per variant.
    """
    blocks = []
    for dataset in experiment.datasets:
        rows = []
        for variant in experiment.variants:
            these = find_variant(runs, experiment, dataset, variant)
            if these.empty:
                continue
            is_reference = variant == experiment.variants[0]
            compared = difference(runs, experiment, dataset, variant, experiment.variants[0])
            rows.append(
                {
                    "recipe": RECIPES[variant.recipe].title,
                    "B": str(variant.rois),
                    "learning rate": f"{variant.learning_rate:g}",
                    "iterations": f"{these['iterations'].iloc[0]:,}",
                    "n": str(len(these)),
                    "AP": mean_and_deviation(these["AP"]),
                    "AP50": mean_and_deviation(these["AP50"]),
                    "difference in AP": "" if is_reference else compared.text,
                    "trained on, fg : bg": _kept(these),
                }
            )
        if len(rows) > 1:
            blocks += [f"**{DATASETS[dataset].title}**", make_table(rows)]
    recorded = find(runs, experiment.runs())
    if recorded.empty:
        return "No run is recorded yet."
    num_diverged = int(recorded["diverged_at"].notna().sum())
    if num_diverged:
        blocks.append(f"{num_diverged} runs diverged; each counts as an AP of 0.")
    command = f"{COMMAND.format(experiment.laboratory)} --experiments '{name}'"
    return "\n\n".join([*blocks, made_by(command, recorded)])


def differences(runs: pd.DataFrame, experiment: Experiment) -> dict[str, dict[str, Difference]]:
    """
    Returns:
        dict: by the titles of recipe and dataset, the difference in AP to the first recipe. Those
        with fewer than two seeds are left out.
    """
    found = {
        RECIPES[x.recipe].title: _differences_of(runs, experiment, x)
        for x in experiment.variants[1:]
    }
    return {k: x for k, x in found.items() if x}


def _differences_of(
    runs: pd.DataFrame, experiment: Experiment, variant: Variant
) -> dict[str, Difference]:
    compared = {
        DATASETS[x].title: difference(runs, experiment, x, variant, experiment.variants[0])
        for x in experiment.datasets
    }
    return {k: x for k, x in compared.items() if len(x.values) > 1}


def summary_table(runs: pd.DataFrame, experiment: Experiment) -> str:
    """
    Returns:
        str: a row per dataset, and one of the mean over all: the AP of the first recipe, and the
        difference of each other one to it.
    """
    first, *others = experiment.variants
    reference = _in_a_sentence(RECIPES[first.recipe].title)
    aps = {
        DATASETS[dataset].title: {
            variant: ap_by_seed(runs, experiment, dataset, variant)
            for variant in experiment.variants
        }
        for dataset in experiment.datasets
    }
    aps["Mean over all"] = {x: mean_ap_by_seed(runs, experiment, x) for x in experiment.variants}
    rows = [
        {
            "photographs": title,
            "n": str(len(ap[first])),
            f"AP, {reference}": mean_and_deviation(ap[first]),
            **{RECIPES[x.recipe].title: paired_difference(ap[x], ap[first]).text for x in others},
        }
        for title, ap in aps.items()
        if len(ap[first])
    ]
    return make_table(rows) if rows else "No run is recorded yet."


def changes_table(runs: pd.DataFrame, experiment: Experiment, whole: Experiment) -> str:
    """
    Args:
        experiment: on datasets without some of the boxes.
        whole: has the same variants on the same photographs, with all boxes.

    Returns:
        str: for each dataset and recipe, the AP with and without the difference in boxes, how much
        it changes within a seed, and how much more it does so than that of the first recipe.
    """
    reference = _in_a_sentence(RECIPES[experiment.variants[0].recipe].title)
    rows = []
    for dataset in experiment.datasets:
        photographs = with_all_boxes(dataset)
        changes: list[pd.Series] = []
        for variant in experiment.variants:
            before = ap_by_seed(runs, whole, photographs, variant)
            after = ap_by_seed(runs, experiment, dataset, variant)
            changes.append((after - before).dropna())
            seeds = changes[-1].index
            if seeds.empty:
                continue
            change = paired_difference(after, before)
            is_reference = variant == experiment.variants[0]
            compared = paired_difference(changes[-1], changes[0])
            rows.append(
                {
                    "photographs": DATASETS[photographs].title,
                    "recipe": RECIPES[variant.recipe].title,
                    "n": str(len(seeds)),
                    "AP, all boxes": mean_and_deviation(before[seeds]),
                    "AP, boxes missing": mean_and_deviation(after[seeds]),
                    "change": change.text,
                    f"change minus that of {reference}": "" if is_reference else compared.text,
                }
            )
    return make_table(rows) if rows else "No run is recorded yet."


def errors_table(runs: pd.DataFrame, experiment: Experiment) -> str:
    """
    Returns:
        str: a row per dataset: the wrong detections of all test images at the largest recall that
        all runs reach. Of the first recipe the number of all, and of those on background; of each
        other one the difference in those on background. Of the seeds that all recipes have: a run
        that diverged has no detections.
    """
    first, *others = experiment.variants
    reference = _in_a_sentence(RECIPES[first.recipe].title)
    rows = []
    for dataset in experiment.datasets:
        recall, errors = _errors_at_recall(runs, experiment, dataset)
        if not recall:
            continue
        background = {k: x["background"] for k, x in errors.items()}
        differences = {k: paired_difference(background[k], background[first]) for k in others}
        rows.append(
            {
                "photographs": DATASETS[dataset].title,
                "n": str(len(errors[first])),
                "recall": recall,
                f"all errors, {reference}": mean_and_deviation(errors[first].sum(axis=1)),
                f"background errors, {reference}": mean_and_deviation(background[first]),
                **{RECIPES[k.recipe].title: x.text for k, x in differences.items()},
            }
        )
    return make_table(rows) if rows else "No run is recorded yet."


def background_errors(
    runs: pd.DataFrame, experiment: Experiment, dataset: str, recipe: str, **fields: Any
) -> str:
    """
    Args:
        fields: of the variant, if the recipe has several.

    Returns:
        str: how many of a recipe's wrong detections are on background, where :func:`errors_table`
        counts them, "3.7 of 119.3".
    """
    _, errors = _errors_at_recall(runs, experiment, dataset)
    if not errors:
        return "-"
    counts = errors[experiment.variant(recipe, **fields)]
    return f"{number(counts['background'].mean())} of {number(counts.sum(axis=1).mean())}"


def _errors_at_recall(
    runs: pd.DataFrame, experiment: Experiment, dataset: str
) -> tuple[str, dict[Variant, pd.DataFrame]]:
    """
    Returns:
        (str, dict): the largest recall that all runs reach, empty if there is none; and by variant
        the numbers of wrong detections there, a row per seed and a column per kind.
    """
    errors = {x: _errors_by_seed(runs, experiment, dataset, x) for x in experiment.variants}
    seeds = sorted(set.intersection(*(set(x.index) for x in errors.values())))
    errors = {k: x[seeds] for k, x in errors.items()}
    reached = [r for r in RECALLS if all(x[r] is not None for e in errors.values() for x in e)]
    if not seeds or not reached:
        return "", {}
    recall = reached[-1]
    return recall, {
        k: pd.DataFrame([of_seed[recall] for of_seed in x], index=seeds) for k, x in errors.items()
    }


def _errors_by_seed(
    runs: pd.DataFrame, experiment: Experiment, dataset: str, variant: Variant
) -> pd.Series:
    these = find_variant(runs, experiment, dataset, variant)
    # Lines from before they were recorded have none, and neither have runs that diverged.
    return these.set_index("seed")["errors"].dropna() if "errors" in these else pd.Series()


def verdict(runs: pd.DataFrame, experiment: Experiment, recipe: str) -> str:
    """
    Returns:
        str: on which datasets a recipe's AP differs from the first one's, "significantly higher on
        cats (+3.0) and cows (+2.0), and lower on none".
    """
    compared = _differences_of(runs, experiment, experiment.variant(recipe))
    return _in_words(compared, "higher", "lower")


def tally(runs: pd.DataFrame, experiment: Experiment, recipe: str) -> str:
    """
    Returns:
        str: on how many datasets a recipe's AP differs significantly from the first one's, "higher
        on 3 of 6 sets, lower on 1".
    """
    compared = _differences_of(runs, experiment, experiment.variant(recipe))
    signs = [x.sign for x in compared.values()]
    higher, lower = signs.count(1), signs.count(-1)
    return f"higher on {higher} of {len(signs)} sets, lower on {lower}"


def errors_verdict(runs: pd.DataFrame, experiment: Experiment, recipe: str) -> str:
    """
    Returns:
        str: on which datasets the number of a recipe's wrong detections on background differs from
        the first one's, where :func:`errors_table` counts them, "significantly smaller on
        cats (-3.0), and larger on none".
    """
    first, other = experiment.variants[0], experiment.variant(recipe)
    compared = {}
    for dataset in experiment.datasets:
        _, errors = _errors_at_recall(runs, experiment, dataset)
        if errors and len(errors[first]) > 1:
            compared[DATASETS[dataset].title] = paired_difference(
                errors[other]["background"], errors[first]["background"]
            )
    return _in_words(compared, "larger", "smaller")


def _in_words(compared: dict[str, Difference], above: str, below: str) -> str:
    """
    Args:
        above, below: what a difference above 0 is, and one below.
    """
    if not compared:
        return "not known yet: fewer than two seeds are recorded"
    more, less = (
        listed([f"{_in_a_sentence(k)} ({x.mean_text})" for k, x in compared.items() if x.sign == y])
        for y in (1, -1)
    )
    if more and less:
        return f"significantly {above} on {more}, and {below} on {less}"
    if more:
        return f"significantly {above} on {more}, and {below} on none"
    if less:
        return f"significantly {below} on {less}, and {above} on none"
    return "not significantly different on any set"


def recipe_difference(
    runs: pd.DataFrame, experiment: Experiment, dataset: str, recipe: str, **fields: Any
) -> str:
    """
    Args:
        fields: of the variant, if the recipe has several.

    Returns:
        str: the difference in AP to the experiment's first variant, "+4.0 (-8.7 to 16.7)".
    """
    variant = experiment.variant(recipe, **fields)
    return difference(runs, experiment, dataset, variant, experiment.variants[0]).text


def foreground(runs: pd.DataFrame, experiment: Experiment, dataset: str, recipe: str) -> str:
    """
    Returns:
        str: the foreground RoIs per image that a recipe trains on, the mean over its runs.
    """
    variant = experiment.variant(recipe)
    these = find_variant(runs, experiment, dataset, variant)
    means = [pd.DataFrame(x)["num_fg"].mean() for x in these["curves"]]
    return number(sum(means) / len(means) if means else math.nan)


def roi_loss(runs: pd.DataFrame, experiment: Experiment, dataset: str, recipe: str) -> str:
    """
    Returns:
        str: the mean loss over all RoIs of training images at the end of a recipe's runs.
    """
    these = find_variant(runs, experiment, dataset, experiment.variant(recipe))
    last = [losses[-1][1] for losses in these["mean_roi_loss"]]
    return number(sum(last) / len(last) if last else math.nan, 3)


def mean_roi_losses(runs: pd.DataFrame, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """
    Returns:
        dict: by the title of the dataset, the mean loss over all RoIs of training images: the
        columns "recipe", "iteration" and "loss", and a row per run and checkpoint.
    """
    found = {}
    for dataset in experiment.datasets:
        points = [
            (RECIPES[variant.recipe].title, iteration, loss)
            for variant in experiment.variants
            for losses in find_variant(runs, experiment, dataset, variant)["mean_roi_loss"]
            for iteration, loss in losses
        ]
        if points:
            columns = ["recipe", "iteration", "loss"]
            found[DATASETS[dataset].title] = pd.DataFrame(points, columns=columns)
    return found


def settings_table(runs: pd.DataFrame, experiment: Experiment) -> str:
    """
    Returns:
        str: the AP of each recipe by its settings: the mean over the datasets, of those settings
        that were tried on all of them.
    """
    rates = sorted({x.learning_rate for x in experiment.variants})
    rows = []
    for recipe in dict.fromkeys(x.recipe for x in experiment.variants):
        for rois in sorted({x.rois for x in experiment.variants if x.recipe == recipe}):
            of_row = [x for x in experiment.variants if (x.recipe, x.rois) == (recipe, rois)]
            cells = {x.learning_rate: mean_ap_by_seed(runs, experiment, x).mean() for x in of_row}
            rows.append(
                {
                    "recipe": RECIPES[recipe].title,
                    "B": str(rois),
                    **{f"AP, rate {x:g}": number(cells.get(x, math.nan)) for x in rates},
                }
            )
    return make_table(rows)


def stability_table(runs: pd.DataFrame, experiment: Experiment) -> str:
    """
    Returns:
        str: for each recipe and learning rate, how many runs collapsed, "2 of 6, 1 diverged": those
        that diverged, or ended below half of the AP of the experiment's first recipe with the same
        dataset, rate and seed. "-" where that diverged itself or is not recorded.
    """
    first = experiment.variants[0].recipe
    reference = {x.learning_rate: x for x in experiment.variants if x.recipe == first}
    rows = []
    for recipe in dict.fromkeys(x.recipe for x in experiment.variants):
        row = {"recipe": RECIPES[recipe].title}
        for variant in (x for x in experiment.variants if x.recipe == recipe):
            compared = pd.concat(
                _beside(runs, experiment, x, variant, reference[variant.learning_rate])
                for x in experiment.datasets
            )
            num_collapsed = int((compared["AP"] < 0.5 * compared["AP beside"]).sum())
            num_diverged = int(compared["diverged_at"].notna().sum())
            text = f"{num_collapsed} of {len(compared)}" if len(compared) else "-"
            if num_diverged:
                text += f", {num_diverged} diverged"
            row[f"collapsed, rate {variant.learning_rate:g}"] = text
        rows.append(row)
    return make_table(rows)


def diverged(runs: pd.DataFrame, experiment: Experiment, dataset: str, recipe: str) -> str:
    """
    Returns:
        str: how many of a recipe's runs diverged, "2 of 3".
    """
    these = find_variant(runs, experiment, dataset, experiment.variant(recipe))
    return f"{these['diverged_at'].notna().sum()} of {len(these)}"


def _beside(
    runs: pd.DataFrame, experiment: Experiment, dataset: str, variant: Variant, reference: Variant
) -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: the lines of a variant's runs beside which the reference did not diverge, with
        its AP in the column "AP beside".
    """
    beside = ap_by_seed(runs, experiment, dataset, reference).rename("AP beside")
    these = find_variant(runs, experiment, dataset, variant).set_index("seed")
    return these.join(beside[beside > 0], how="inner")


def best_settings(runs: pd.DataFrame, experiment: Experiment) -> dict[str, tuple[int, float]]:
    """
    Returns:
        dict[str, tuple[int, float]]: by recipe, the RoIs per image and the learning rate with the
        largest mean AP over the datasets.
    """
    best = {}
    for recipe in dict.fromkeys(x.recipe for x in experiment.variants):
        ap = {
            x: mean_ap_by_seed(runs, experiment, x).mean()
            for x in experiment.variants
            if x.recipe == recipe
        }
        tried = {k: x for k, x in ap.items() if not math.isnan(x)}
        if tried:
            variant = max(tried, key=lambda x: tried[x])
            best[recipe] = (variant.rois, variant.learning_rate)
    return best


def _in_a_sentence(title: str) -> str:
    return title if title.isupper() else title[0].lower() + title[1:]


def _kept(runs: pd.DataFrame) -> str:
    """
    Returns:
        str: "7.0 : 25.0 → 11.0 : 21.0", foreground and background RoIs per image that are trained
        on, in the first and in the last tenth of the training.
    """
    ends = []
    for curves in runs["curves"]:
        counts = pd.DataFrame(curves)[["num_fg", "num_bg"]]
        tenth = math.ceil(len(counts) / 10)
        ends.append([counts.head(tenth).mean(), counts.tail(tenth).mean()])
    means = [sum(x) / len(ends) for x in zip(*ends, strict=True)]
    return " → ".join(f"{x['num_fg']:.1f} : {x['num_bg']:.1f}" for x in means)
