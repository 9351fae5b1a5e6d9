"""
The page and the table: the paper's numbers, and ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from ..utils import atomic_file
from ..visualization.page import write_page
from .results import MEMORY, SECONDS, Number
from .rows import NETWORKS

__all__ = ["write_report"]

# The page has the first two in one column.
HEADERS = ("row", "what", "metric", "paper", "ours", "n", "difference", "hours", "made with")
COST_HEADERS = ("network", "", "Fast R-CNN", "OHEM", "ratio", "paper's ratio")
COLORS = ("#7f7f7f", "#1f77b4", "#2ca02c", "#d62728")


def write_report(
    folder: Path,
    numbers: Sequence[Number],
    curves: Mapping[str, Mapping[int, float]],
    about: Mapping[str, str],
) -> str:
    """
    Write index.html, reproduction.md and, if there are curves, figure3.png.

    Args:
        numbers: from :func:`collect`.
        curves: from :func:`figure_3`.
        about: what to know of all rows, by title.

    Returns:
        str: the table, in Markdown.
    """
    origins = list(dict.fromkeys(_origin(x) for number in numbers for x in number.records))
    rows = [_cells(x, origins) for x in numbers]
    costs = _cost_rows(numbers)
    commands = _commands(numbers)
    if curves:
        _draw(folder / "figure3.png", curves)
    table = tabulate(rows, HEADERS, "github", disable_numparse=True)
    parts = ["# The paper and ours", table]
    if costs:
        parts += ["## Cost", tabulate(costs, COST_HEADERS, "github", disable_numparse=True)]
    if curves:
        parts += ["## Figure 3", "![Mean loss over all RoIs](figure3.png)"]
    about = {**about, **{f"Made with {i}": x for i, x in enumerate(origins, start=1)}}
    parts.append("\n".join(f"- {title}: {text}" for title, text in about.items()))
    parts += ["## Commands", *(f"{title}:\n\n    {text}" for title, text in commands.items())]
    with atomic_file(folder / "reproduction.md") as file:
        file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    write_page(
        folder / "index.html",
        "reproduction.html",
        headers=HEADERS,
        rows=rows,
        cost_headers=COST_HEADERS,
        costs=costs,
        has_figure=bool(curves),
        about=about,
        commands=commands,
    )
    return table


def _cells(number: Number, origins: Sequence[str]) -> list[str]:
    """
    Returns:
        list[str]: the cells under HEADERS.
    """
    row, paper = number.row, number.paper
    digits = 2 if number.metric == SECONDS else 1
    mean, spread, difference = number.mean(), number.spread(), number.difference()
    ours = "" if mean is None else f"{mean:.{digits}f}"
    if spread is not None:
        ours += f" ± {spread:.{digits}f}"
    return [
        row.name,
        row.title,
        number.metric,
        f"{paper.value:.{digits}f}{'*' * paper.is_from_memory()}" if paper else "",
        ours,
        str(len(number.values) or ""),
        "" if difference is None else f"{difference:+.{digits}f}",
        f"{sum(number.hours):.1f}" if number.hours else "",
        ", ".join(str(1 + origins.index(x)) for x in dict.fromkeys(map(_origin, number.records))),
    ]


def _origin(record: Mapping[str, str]) -> str:
    return (
        f"ohem_d2 {record['ohem_d2']}, PyTorch {record['torch']}, detectron2 "
        f"{record['detectron2']}, {record['device']}, {record['date']}"
    )


def _cost_rows(numbers: Sequence[Number]) -> list[list[str]]:
    """
    Returns:
        list[list[str]]: the cells under COST_HEADERS. Empty if nothing was measured.
    """
    by_key = {(x.row.name, x.metric): x for x in numbers}
    cells = []
    for network in NETWORKS:
        for metric in (SECONDS, MEMORY):
            pair = [by_key.get((f"table2/{network}/{x}", metric)) for x in ("fast_rcnn", "ohem")]
            values: list[Any] = [x and x.mean() for x in pair]
            if None in values:
                continue
            papers: list[Any] = [x.paper for x in pair if x]
            cells.append(
                [
                    network,
                    metric,
                    *(f"{x:.2f}" for x in values),
                    f"{values[1] / values[0]:.2f}",
                    f"{papers[1].value / papers[0].value:.2f}",
                ]
            )
    return cells


def _commands(numbers: Sequence[Number]) -> dict[str, str]:
    """
    Returns:
        dict[str, str]: the commands behind each row, by its name.
    """
    return {
        number.row.name: "\n    ".join(dict.fromkeys(x["command"] for x in number.records))
        for number in numbers
        if number.records
    }


def _draw(path: Path, curves: Mapping[str, Mapping[int, float]]) -> None:
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    for (title, losses), color in zip(curves.items(), COLORS, strict=False):
        ax.plot(list(losses), list(losses.values()), "o-", color=color, label=title, markersize=4)
    ax.set_xlabel("iterations")
    ax.set_ylabel("mean loss over all RoIs of VOC07 trainval")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(path)
