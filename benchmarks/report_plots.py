"""
The pictures of docs/results.md. What each shows is given in numbers and words: nothing here knows
where they are from.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paired import Difference
from PIL import Image

from ohem_d2.utils import atomic_file

__all__ = ["Bar", "Line", "draw_bars", "draw_differences", "draw_lines"]

# Okabe and Ito's, which people who see fewer colors can tell apart.
COLORS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
BETTER, WORSE, UNCLEAR = "#0072B2", "#D55E00", "#6b6b6b"
DPI = 110
WIDTH = 8.6  # inches: what a page of GitHub shows without shrinking it
SMALL, NORMAL = 8.5, 9.5


class Line(NamedTuple):
    """
    A recipe in training.
    """

    label: str
    color: int  # of COLORS, the same in all panels
    # By iteration the value of each seed.
    values: Mapping[int, Sequence[float]]


class Bar(NamedTuple):
    """
    A step of training, in the unit of the reference's.
    """

    label: str
    note: str  # at its end
    parts: Mapping[str, float]


def draw_differences(
    path: Path, xlabel: str, panels: Mapping[str, Mapping[str, Difference]]
) -> None:
    """
    Draw a panel for each dataset, with a row for each recipe: a dot for each seed, the mean and its
    interval, and the line where nothing differs.

    Args:
        path (Path): the picture to write, a PNG.
        xlabel (str): what differs.
        panels: by title of the dataset and of the recipe.
    """
    num_rows = [len(rows) for rows in panels.values()]
    figure, axes = _stack(num_rows, 0.7 + sum(0.42 * n + 0.45 for n in num_rows))
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        _finish(ax, title)
        ax.axvline(0, color="black", linewidth=1)
        for y, difference in enumerate(rows.values()):
            color = {1: BETTER, 0: UNCLEAR, -1: WORSE}[difference.sign]
            ax.plot(
                difference.values,
                [y + 0.17] * difference.n,
                linestyle="",
                marker="o",
                markersize=4.5,
                color=color,
                alpha=0.55,
                markeredgewidth=0,
            )
            if difference.low is not None:
                interval = [difference.low, difference.high]
                ax.plot(interval, [y - 0.12] * 2, color=color, linewidth=3.5)
            ax.plot(difference.mean, y - 0.12, marker="D", markersize=7, color=color)
            note = f"{difference.mean:+.1f}" if difference.low is None else difference.cell
            ax.annotate(
                note,
                (1, y),
                xycoords=ax.get_yaxis_transform(),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL,
                color=color,
            )
        _name_rows(ax, list(rows))
        ax.spines["left"].set_visible(False)
    axes[-1].set_xlabel(
        f"{xlabel}\n◆ mean of the seeds, with its 95 % interval    ● a seed", fontsize=NORMAL
    )
    _save(figure, path)


def draw_lines(path: Path, ylabel: str, panels: Mapping[str, Sequence[Line]]) -> None:
    """
    Draw a panel for each dataset, with a line for each recipe: the mean over the seeds, in a band
    from the lowest to the highest of them.

    Args:
        path (Path): the picture to write, a PNG.
        ylabel (str): what is drawn.
        panels: by title of the dataset. No panel is empty.
    """
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure((WIDTH if columns == 2 else 6.2, 3.1 * rows), DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for i, (ax, (title, lines)) in enumerate(zip(axes, panels.items(), strict=False)):
        _finish(ax, title)
        for line in lines:
            x = list(line.values)
            seeds = list(line.values.values())
            color = COLORS[line.color % len(COLORS)]
            low, high = [min(v) for v in seeds], [max(v) for v in seeds]
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            style = {"marker": "o", "markersize": 4} if len(x) < 10 else {}
            ax.plot(
                x, [fmean(v) for v in seeds], color=color, linewidth=1.8, clip_on=False, **style
            )
        ax.set_xlim(0, max(max(line.values) for line in lines))  # names begin where it ends
        ax.set_ylim(bottom=0)
        _label_ends(ax, lines, height=3.1)
        ax.set_xlabel("iteration", fontsize=SMALL)
        if i % columns == 0:
            ax.set_ylabel(ylabel, fontsize=NORMAL)
    _save(figure, path)


def draw_bars(path: Path, xlabel: str, panels: Mapping[str, Sequence[Bar]]) -> None:
    """
    Draw a panel for each model, with a bar for each variant, which is stacked of its parts.

    Args:
        path (Path): the picture to write, a PNG.
        xlabel (str): the unit.
        panels: by title of the model.
    """
    num_rows = [len(bars) for bars in panels.values()]
    names = list(dict.fromkeys(x for bars in panels.values() for bar in bars for x in bar.parts))
    colors = dict(zip(names, COLORS[-1:] + COLORS[1:-1] + COLORS[:1], strict=False))
    figure, axes = _stack(num_rows, 0.9 + sum(0.34 * n + 0.4 for n in num_rows))
    for ax, (title, bars) in zip(axes, panels.items(), strict=True):
        _finish(ax, title)
        for y, bar in enumerate(bars):
            left = 0.0
            for name, width in bar.parts.items():
                ax.barh(y, width, 0.72, left, color=colors[name], edgecolor="white", linewidth=0.8)
                left += width
            ax.annotate(
                bar.note,
                (left, y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        ax.axvline(1, color="black", linewidth=1, linestyle="dotted")
        _name_rows(ax, [bar.label for bar in bars])
    widest = max(sum(bar.parts.values()) for bars in panels.values() for bar in bars)
    axes[-1].set_xlim(0, 1.25 * widest)  # room for the notes
    axes[-1].set_xlabel(xlabel, fontsize=NORMAL)
    figure.legend(
        [axes[0].bar(0, 0, color=colors[name]) for name in names],
        names,
        loc="outside upper center",
        ncols=3,
        fontsize=SMALL,
        frameon=False,
    )
    _save(figure, path)


def _stack(num_rows: Sequence[int], height: float) -> tuple[Figure, Sequence[Axes]]:
    """
    Panels below each other, as high as they have rows, on one x-axis.

    Args:
        height (float): of the figure, in inches.
    """
    figure = Figure((WIDTH, height), DPI, layout="constrained")
    ratios = [n + 0.2 for n in num_rows]
    axes = figure.subplots(len(num_rows), 1, squeeze=False, sharex=True, height_ratios=ratios)
    return figure, axes[:, 0]


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """
    The first on top.
    """
    ax.set_yticks(range(len(names)), names, fontsize=NORMAL)
    ax.set_ylim(len(names) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def _label_ends(ax: Axes, lines: Sequence[Line], height: float) -> None:
    """
    Write the name of each line behind its end, and move names apart that would overlap.
    """
    bottom, top = ax.get_ylim()
    labels = []
    for line in lines:
        values = line.values[max(line.values)]
        labels.append((fmean(values), textwrap.fill(line.label, 20), line.color))
    labels.sort()
    # A line of text in the unit of the axis: the panel is some two thirds of the height.
    text = (top - bottom) * SMALL * 1.45 / 72 / (0.68 * height)
    y = [value for value, _, _ in labels]
    tall = [text * (1 + label.count("\n")) for _, label, _ in labels]
    for i in range(1, len(y)):
        y[i] = max(y[i], y[i - 1] + (tall[i - 1] + tall[i]) / 2)
    limit = top - tall[-1] / 2
    for i in reversed(range(len(y))):  # and down again, if they stick out
        y[i] = min(y[i], limit)
        limit = y[i] - (tall[i - 1] + tall[i]) / 2
    for center, (_, label, color) in zip(y, labels, strict=True):
        ax.annotate(
            label,
            (ax.get_xlim()[1], center),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=_readable(COLORS[color % len(COLORS)]),
            annotation_clip=False,
        )


def _readable(color: str) -> str:
    """
    As a text: light colors darker.
    """
    return {"#E69F00": "#9a6a00", "#56B4E9": "#2478ad", "#CC79A7": "#a8447d"}.get(color, color)


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=NORMAL, fontweight="bold", loc="left")
    ax.tick_params(labelsize=SMALL)
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    """
    In a palette, which is a third of the size; and without matplotlib's version in it, so that the
    same results are the same file.
    """
    figure.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with atomic_file(path) as file:
        image.quantize(128).save(file, "png", optimize=True)
