"""
The recorded runs: benchmarks/results/laboratory_*.jsonl, a file per laboratory and image set, and a
line per run.
"""

import json
from pathlib import Path

import pandas as pd

from benchmarks.laboratory.experiments import Run, config_digest, options_of
from benchmarks.laboratory.laboratories import DATASETS, LABORATORIES
from benchmarks.laboratory.recipes import RECIPES
from benchmarks.provenance import read_results
from ohem_d2.utils import InputError

__all__ = ["read_runs", "results_file"]


def results_file(folder: Path, laboratory: str, test_split: str) -> Path:
    return folder / f"laboratory_{laboratory}_{test_split}.jsonl"


def read_runs(folder: Path, laboratory: str, test_split: str = "val") -> pd.DataFrame:
    """
    Returns:
        pd.DataFrame: a row per run, with the fields that benchmarks.laboratory.run writes. A run
        that diverged has an AP of 0: to leave it out would be to compare on the seeds that a recipe
        survives.

    Raises:
        InputError: if a line is not of a run that could be made today: an unknown dataset or
            recipe, other options, or another config.
    """
    file = results_file(folder, laboratory, test_split)
    runs = read_results(folder, file.name, (*Run._fields, "test_split"))
    if runs.empty:
        return pd.DataFrame(columns=[*Run._fields, "AP"])
    for line in runs.to_dict("records"):
        for kind, known in (
            ("laboratory", LABORATORIES),
            ("dataset", DATASETS),
            ("recipe", RECIPES),
        ):
            if line[kind] not in known:
                raise InputError(
                    f"{line['where']}: {kind} {line[kind]!r} is unknown. There are: "
                    f"{', '.join(known)}."
                )
        run = Run(*(line[x] for x in Run._fields))
        options = json.loads(json.dumps(options_of(run)))  # tuples become lists
        if line["options"] != options:
            raise InputError(
                f"{line['where']} was recorded with the options {line['options']}; today's are "
                f"{options}. Delete the line."
            )
        config = LABORATORIES[run.laboratory].config
        if line["config"] != config_digest(config):
            raise InputError(
                f"{line['where']} was recorded with another configs/{config} than today's. Delete "
                "the line."
            )
        if pd.isna(line["AP"]) == pd.isna(line["diverged_at"]):
            raise InputError(f"{line['where']} has no AP, and did not diverge, or has both.")
    runs[["AP", "AP50"]] = runs[["AP", "AP50"]].astype(float).fillna(0.0)
    return runs
