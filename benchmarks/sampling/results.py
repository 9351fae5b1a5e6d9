"""
The recorded runs: benchmarks/results/sampling_*.jsonl, a file per dataset and a line per run.
"""

import json
from pathlib import Path

import pandas as pd

from benchmarks.provenance import read_results
from benchmarks.sampling.experiments import DATASETS, RECIPES, Run, config_digest, options_of
from ohem_d2.utils import InputError

__all__ = ["read_runs", "results_file"]


def results_file(folder: Path, dataset: str) -> Path:
    return folder / f"sampling_{dataset}.jsonl"


def read_runs(folder: Path) -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: a row per run, with the fields that benchmarks.sampling.run writes. A run that
        diverged has an AP of 0: to leave it out would be to compare on the seeds that a recipe
        survives.

    Raises:
        InputError: if a line is not of a run that could be made today: an unknown dataset or
            recipe, other options, or another config.
    """
    runs = read_results(folder, "sampling_*.jsonl", Run._fields)
    if runs.empty:
        return runs
    for line in runs.to_dict("records"):
        run = Run(*(line[x] for x in Run._fields))
        for kind, name, known in (
            ("dataset", run.dataset, DATASETS),
            ("recipe", run.recipe, RECIPES),
        ):
            if name not in known:
                raise InputError(
                    f"{line['where']}: {kind} {name!r} is unknown. There are: {', '.join(known)}."
                )
        options = json.loads(json.dumps(options_of(run)))  # tuples become lists
        if line["options"] != options:
            raise InputError(
                f"{line['where']} was recorded with the options {line['options']}; today's are "
                f"{options}. Delete the line."
            )
        config = DATASETS[run.dataset].config
        if line["config"] != config_digest(config):
            raise InputError(
                f"{line['where']} was recorded with another configs/{config} than today's. Delete "
                "the line."
            )
        if pd.isna(line["AP"]) == pd.isna(line["diverged_at"]):
            raise InputError(f"{line['where']} has no AP, and did not diverge, or has both.")
    runs[["AP", "AP50"]] = runs[["AP", "AP50"]].astype(float).fillna(0.0)
    return runs
