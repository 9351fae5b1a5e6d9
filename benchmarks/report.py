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

import pandas as pd
from jinja2 import Environment, StrictUndefined

from benchmarks.laboratory import tables
from benchmarks.laboratory.experiments import SETTINGS, experiments
from benchmarks.laboratory.laboratories import LABORATORIES
from benchmarks.laboratory.recipes import RECIPES
from benchmarks.laboratory.results import read_runs
from benchmarks.laboratory.step_ratios import ALL, step_ratio
from benchmarks.plots import draw_differences, draw_losses, draw_parts
from benchmarks.provenance import RESULTS, ROOT
from benchmarks.step_time import tables as step_time
from ohem_d2.utils import InputError, atomic_file

TEMPLATES = ROOT / "benchmarks/templates"


def template_values(
    steps: pd.DataFrame, laboratories: dict[str, pd.DataFrame]
) -> dict[str, Callable[..., str] | str]:
    """
    Args:
        laboratories: the recorded runs of each.

    Returns:
        dict: the variables and functions of the templates.
    """

    def of_step(ratio: str) -> Callable[[str, str], str]:
        return lambda model, variant: (
            f"{step_time.step(steps, model=model, variant=variant)[ratio]:.2f}"
        )

    def read_only_share(model: str, variant: str) -> str:
        parts = step_time.step(steps, model=model, variant=variant)["parts"]
        return f"{parts['read-only pass'] / sum(parts.values()):.0%}"

    def laboratory(name: str, experiment: str) -> str:
        return tables.experiment_tables(
            laboratories[name], experiment, experiments(name)[experiment]
        )

    def of_laboratory(table: Callable[..., str]) -> Callable[..., str]:
        return lambda name, experiment, *others, **fields: table(
            laboratories[name], experiments(name)[experiment], *others, **fields
        )

    def changes(name: str, experiment: str, whole: str) -> str:
        of_name = experiments(name)
        return tables.changes_table(laboratories[name], of_name[experiment], of_name[whole])

    def iterations(name: str, experiment: str, dataset: str, recipe: str) -> str:
        chosen = experiments(name)[experiment]
        run = chosen.run(dataset, chosen.variant(recipe), chosen.seeds[0])
        return f"{run.iterations:,}"

    return {
        "step_ratio": of_step("ratio"),
        "counted_ratio": of_step("flops_ratio"),
        "read_only_share": read_only_share,
        "step_table": step_time.step_table(steps),
        "parts_table": step_time.parts_table(steps),
        "sweep_table": step_time.sweep_table(steps),
        "pool_table": step_time.pool_table(steps),
        "iterations": iterations,
        "background_errors": of_laboratory(tables.background_errors),
        "foreground": of_laboratory(tables.foreground),
        "laboratory": laboratory,
        "laboratory_changes": changes,
        "laboratory_difference": of_laboratory(tables.recipe_difference),
        "laboratory_errors": of_laboratory(tables.errors_table),
        "laboratory_errors_verdict": of_laboratory(tables.errors_verdict),
        "laboratory_settings": of_laboratory(tables.settings_table),
        "laboratory_step_ratio": lambda name, recipe, rois: (
            f"{step_ratio(name, ALL, recipe, rois):.2f}"
        ),
        "laboratory_summary": of_laboratory(tables.summary_table),
        "laboratory_tally": of_laboratory(tables.tally),
        "laboratory_mean": of_laboratory(tables.mean_difference),
        "laboratory_mean_ap": of_laboratory(tables.mean_ap),
        "laboratory_verdict": of_laboratory(tables.verdict),
        "diverged": of_laboratory(tables.diverged),
        "roi_loss": of_laboratory(tables.roi_loss),
        "collapsed": of_laboratory(tables.stability_table),
    }


def draw_pictures(steps: pd.DataFrame, laboratories: dict[str, pd.DataFrame], folder: Path) -> None:
    differences = {
        LABORATORIES[k].title: tables.differences(laboratories[k], experiments(k)["main"])
        for k in SETTINGS
    }
    many = tables.differences(laboratories["fpn"], experiments("fpn")["many proposals, equal time"])
    shown = {
        "Random sampling, 256 proposals": "random",
        "Background mining among 4 B": "background, pool 4, 1000 proposals",
    }
    differences[f"{LABORATORIES['fpn'].title}, 1,000 proposals"] = {
        k: many[RECIPES[x].title] for k, x in shown.items() if RECIPES[x].title in many
    }
    xlabel = "difference in AP to random sampling at equal time"
    drawn = {k: x for k, x in differences.items() if x}
    draw_differences(folder / "results_main.png", xlabel, drawn)
    losses = tables.mean_roi_losses(laboratories["fast"], experiments("fast")["table 1"])
    draw_losses(folder / "results_mean_roi_loss.png", losses)
    whole = steps[(steps["kind"] == "step") & (steps["pool_size"] == 0)]
    draw_parts(folder / "results_step_time.png", whole)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the recorded results")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="the folder to write to")
    args = parser.parse_args(arguments)
    steps = step_time.read_steps(args.results)
    laboratories = {x: read_runs(args.results, x) for x in LABORATORIES}
    for lines, command in (
        (steps, "step_time.run"),
        *((x, f"laboratory.compare {name}") for name, x in laboratories.items()),
    ):
        if lines.empty:
            raise InputError(f"{args.results} has no results of benchmarks.{command}.")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    values = template_values(steps, laboratories)
    draw_pictures(steps, laboratories, args.output)
    for template in sorted(TEMPLATES.glob("*.md")):
        page = environment.from_string(template.read_text(encoding="utf-8")).render(values)
        with atomic_file(args.output / template.name) as file:
            file.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"report: {e}")
