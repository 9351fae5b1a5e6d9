"""
Make docs/results.md, docs/results_full.md and their pictures from benchmarks/results/.

    python -m benchmarks.report

The text is in benchmarks/templates/. Every number comes from the recorded results, those in
sentences, too.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from benchmarks.differences import paired_difference
from benchmarks.laboratory import tables as laboratory_tables
from benchmarks.laboratory.experiments import experiments
from benchmarks.laboratory.laboratories import LABORATORIES
from benchmarks.laboratory.results import read_runs as read_laboratory
from benchmarks.plots import draw_differences, draw_losses, draw_parts, draw_pools
from benchmarks.provenance import RESULTS, ROOT
from benchmarks.sampling import tables as sampling
from benchmarks.sampling.experiments import DATASETS, EXPERIMENTS
from benchmarks.sampling.results import read_runs
from benchmarks.step_time import tables as step_time
from ohem_d2.utils import InputError, atomic_file

TEMPLATES = ROOT / "benchmarks/templates"


def template_values(
    runs: pd.DataFrame, steps: pd.DataFrame, laboratories: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    """
    Args:
        laboratories: the recorded runs of each.

    Returns:
        dict[str, Any]: the variables and functions of the templates.
    """
    comparisons = sampling.compare_with_random(runs)

    def difference(dataset: str, recipe: str, reference: str) -> str:
        ap = sampling.ap_by_seed(runs, dataset, (recipe, reference))
        return paired_difference(ap[recipe], ap[reference]).text

    def foreground_share(dataset: str) -> str:
        share = runs[runs["dataset"] == dataset]["foreground_share"].mean()
        return f"{100 * share:.0f} %"

    def step_ratio(model: str, variant: str) -> str:
        return f"{step_time.step(steps, model=model, variant=variant)['ratio']:.2f}"

    def laboratory(name: str, experiment: str) -> str:
        return laboratory_tables.experiment_tables(
            laboratories[name], experiment, experiments(name)[experiment]
        )

    def of_laboratory(table: Callable[..., str]) -> Callable[..., str]:
        return lambda name, experiment, *others: table(
            laboratories[name], experiments(name)[experiment], *others
        )

    def iterations(name: str, experiment: str, dataset: str, recipe: str) -> str:
        chosen = experiments(name)[experiment]
        run = chosen.run(dataset, chosen.variant(recipe), chosen.seeds[0])
        return f"{run.iterations:,}"

    return {
        "comparisons": comparisons,
        "summary": sampling.summary_table(comparisons),
        "equal_iterations": sampling.verdict(comparisons, "difference"),
        "equal_time": sampling.verdict(comparisons, "longer_difference"),
        "experiment": lambda name: sampling.experiment_tables(runs, name),
        "difference": difference,
        "foreground_share": foreground_share,
        "recipes": sampling.recipes_table(),
        "step_ratio": step_ratio,
        "step_table": step_time.step_table(steps),
        "parts_table": step_time.parts_table(steps),
        "sweep_table": step_time.sweep_table(steps),
        "pool_table": step_time.pool_table(steps),
        "half_precision": sampling.half_precision_table(runs),
        "iterations": iterations,
        "ap": of_laboratory(laboratory_tables.ap),
        "foreground": of_laboratory(laboratory_tables.foreground),
        "laboratory": laboratory,
        "laboratory_errors": of_laboratory(laboratory_tables.errors_table),
        "laboratory_settings": of_laboratory(laboratory_tables.settings_table),
        "laboratory_summary": of_laboratory(laboratory_tables.summary_table),
        "laboratory_mean": of_laboratory(laboratory_tables.mean_difference),
        "laboratory_verdict": of_laboratory(laboratory_tables.verdict),
        "roi_loss": of_laboratory(laboratory_tables.roi_loss),
        "collapsed": of_laboratory(laboratory_tables.stability_table),
    }


def draw_pictures(
    runs: pd.DataFrame, steps: pd.DataFrame, laboratories: dict[str, pd.DataFrame], docs: Path
) -> None:
    differences = {
        LABORATORIES[k].title: laboratory_tables.differences(x, experiments(k)["main"])
        for k, x in laboratories.items()
    }
    xlabel = "difference in AP to random sampling at equal time"
    draw_differences(docs / "results_main.png", xlabel, {k: x for k, x in differences.items() if x})
    losses = laboratory_tables.mean_roi_losses(
        laboratories["fast"], experiments("fast")["equal iterations"]
    )
    draw_losses(docs / "results_mean_roi_loss.png", losses)
    pools = {DATASETS[x].title: sampling.ap_by_pool(runs, x) for x in EXPERIMENTS["pool"].datasets}
    draw_pools(docs / "results_pool.png", {k: x for k, x in pools.items() if not x.empty})
    whole = steps[(steps["kind"] == "step") & (steps["pool_size"] == 0)]
    draw_parts(docs / "results_step_time.png", whole)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the recorded results")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="the folder to write to")
    args = parser.parse_args(arguments)
    runs, steps = read_runs(args.results), step_time.read_steps(args.results)
    for lines, command in ((runs, "sampling.compare"), (steps, "step_time.run")):
        if lines.empty:
            raise InputError(f"{args.results} has no results of benchmarks.{command}.")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    laboratories = {x: read_laboratory(args.results, x) for x in LABORATORIES}
    values = template_values(runs, steps, laboratories)
    draw_pictures(runs, steps, laboratories, args.output)
    for template in sorted(TEMPLATES.glob("*.md")):
        page = environment.from_string(template.read_text(encoding="utf-8")).render(values)
        with atomic_file(args.output / template.name) as file:
            file.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"report: {e}")
