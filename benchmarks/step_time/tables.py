"""
What the recorded training steps say, in numbers and tables.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.measure import make_table
from benchmarks.provenance import made_by, read_results
from benchmarks.step_time.models import BACKGROUND, OHEM
from ohem_d2.utils import InputError

__all__ = [
    "all_tables",
    "parts_table",
    "pool_table",
    "read_steps",
    "step",
    "step_table",
    "sweep_table",
]

COMMAND = "python -m benchmarks.step_time.run"
KINDS = ("step", "sweep")
# What tells lines apart; some kinds of lines lack some of it.
KEY = ("kind", "model", "variant", "precision", "images", "R", "mining_batch_size", "machine")


def read_steps(folder: Path, accept_changed: bool = False) -> pd.DataFrame:
    """
    Args:
        accept_changed (bool): whether to read lines from a changed work tree, too.

    Returns:
        pd.DataFrame: a row per line of step_time*.jsonl.

    Raises:
        InputError: if a line is of an unknown kind.
    """
    lines = read_results(folder, "step_time*.jsonl", KEY, accept_changed)
    for line in lines[~lines["kind"].isin(KINDS)].to_dict("records"):
        raise InputError(
            f"{line['where']}: kind {line['kind']!r} is unknown. There are: {', '.join(KINDS)}."
        )
    return lines


def step(lines: pd.DataFrame, **where: Any) -> pd.Series:
    """
    Returns:
        pd.Series: the one training step that has the values of `where`.
    """
    steps = lines[lines["kind"] == "step"]
    for key, value in where.items():
        steps = steps[steps[key] == value]
    if len(steps) != 1:
        raise InputError(f"{len(steps)} training steps are recorded with {where}, not one.")
    return steps.iloc[0]


def step_table(lines: pd.DataFrame) -> str:
    """
    Returns:
        str: time, memory and operations of each step, beside the first variant of its model.
    """
    steps = lines[lines["kind"] == "step"]
    rows = [
        {
            **_titles(steps, x),
            "B": f"{x['B']:.0f}",
            "ms": f"{x['ms']:,.0f}",
            "time ratio (range)": "1"
            if x["reference"]
            else f"{x['ratio']:.2f} ({x['ratio_low']:.2f} to {x['ratio_high']:.2f})",
            "memory ratio": f"{x['memory_ratio']:.2f}",
            "GFLOP ratio": f"{x['flops_ratio']:.2f}",
        }
        for _, x in steps.iterrows()
    ]
    return f"{make_table(rows, 2)}\n\n{made_by(COMMAND, steps)}"


def pool_table(lines: pd.DataFrame) -> str:
    """
    Returns:
        str: the time and, in parentheses, the operations of a step, in units of the model's first
        variant, by what is mined and the limit on the RoIs that mining looks at.
    """
    steps = lines[lines["kind"] == "step"]
    mining = steps[steps["variant"].str.startswith((OHEM, BACKGROUND))]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for _, x in mining.sort_values("pool_size", kind="stable").iterrows():
        kind = x["variant"].replace(f", pool {x['pool_size']:.0f}", "")
        titles = {**_titles(steps, x), "variant": kind}
        row = rows.setdefault(tuple(titles.values()), dict(titles))
        size = f"{x['pool_size']:.0f}" if x["pool_size"] else "all"
        row[size] = f"{x['ratio']:.2f} ({x['flops_ratio']:.2f})"
    # The columns in order: a model has not all of them.
    sizes = sorted(set(mining["pool_size"]) - {0})
    columns = [*titles, *(f"{size:.0f}" for size in sizes), "all"]
    models = list(dict.fromkeys(steps["model"]))
    ordered = sorted(rows.values(), key=lambda row: models.index(row["model"]))
    table = [{column: row.get(column, "-") for column in columns} for row in ordered]
    return f"{make_table(table, len(titles))}\n\n{made_by(COMMAND, mining)}"


def parts_table(lines: pd.DataFrame) -> str:
    """
    Returns:
        str: the share of each part of a step.
    """
    steps = lines[lines["kind"] == "step"]
    rows = []
    for _, x in steps.iterrows():
        total = sum(x["parts"].values())
        shares = {part: f"{ms / total:.1%}" for part, ms in x["parts"].items()}
        rows.append({**_titles(steps, x), **shares})
    return f"{make_table(rows, 2)}\n\n{made_by(COMMAND, steps)}"


def sweep_table(lines: pd.DataFrame) -> str:
    """
    Returns:
        str: time and memory of mining one image, by the number of its RoIs and how many of them
        are forwarded at a time.
    """
    sweep = lines[lines["kind"] == "sweep"]
    table = sweep.pivot(
        index=["machine", "model", "R"], columns="mining_batch_size", values=["ms", "peak_mib"]
    )
    units = {"ms": "ms", "peak_mib": "MiB"}
    rows = [
        {
            "model": model,
            "RoIs": f"{num_rois:,.0f}",
            **{
                f"{units[name]}, {f'{size:.0f} at a time' if size else 'all at once'}": f"{x:,.0f}"
                for (name, size), x in row.items()
            },
        }
        for (_, model, num_rois), row in table.iterrows()
    ]
    return f"{make_table(rows, 1)}\n\n{made_by(COMMAND, sweep)}"


def all_tables(lines: pd.DataFrame) -> str:
    """
    Returns:
        str: everything above, as a page.
    """
    page = f"# Steps by the pool\n\n{pool_table(lines)}\n\n# Steps\n\n{step_table(lines)}\n"
    page += f"\n# Parts of a step\n\n{parts_table(lines)}\n"
    if "sweep" in set(lines["kind"]):
        page += f"\n# Mining one image in float32\n\n{sweep_table(lines)}\n"
    return page


def _titles(steps: pd.DataFrame, row: pd.Series) -> dict[str, str]:
    """
    The first cells of a row: the machine and the precision only if there are several.
    """
    several = [x for x in ("machine", "precision") if steps[x].nunique() > 1]
    return {x: row[x] for x in ("model", "variant", *several)}
