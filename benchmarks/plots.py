"""
The pictures of docs/results.md and docs/results_full.md.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.differences import Difference
from ohem_d2.utils import atomic_file

__all__ = ["draw_differences", "draw_losses", "draw_parts"]

# Okabe and Ito's colors, which are distinct with color blindness, too.
COLORS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
SIGN_COLORS = {1: "#0072B2", -1: "#D55E00", 0: "#6b6b6b"}
DPI = 110
WIDTH = 8.6  # inches: what GitHub shows without shrinking it
SMALL, NORMAL = 8.5, 9.5


def draw_differences(
    path: Path, xlabel: str, panels: Mapping[str, Mapping[str, Mapping[str, Difference]]]
) -> None:
    """
    Draw a row of panels per detector, with a panel per recipe and in it a row per dataset: a dot
    per seed, their mean and its interval.

    Args:
        path (Path): the PNG to write.
        panels: by the titles of detector, recipe and dataset.
    """
    # Of each detector, in all panels, so that they share their labels.
    datasets = [
        list(dict.fromkeys(d for x in recipes.values() for d in x)) for recipes in panels.values()
    ]
    heights = [0.36 * len(x) + 0.75 for x in datasets]
    num_columns = max(map(len, panels.values()))
    figure = Figure((WIDTH, 0.6 + sum(heights)), DPI, layout="constrained")
    rows = figure.subfigures(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for row, names, (detector, recipes) in zip(rows, datasets, panels.items(), strict=True):
        row.suptitle(detector, x=0.01, ha="left", fontsize=NORMAL, fontweight="bold")
        axes = row.subplots(1, num_columns, squeeze=False, sharey=True)[0]
        for ax in axes[len(recipes) :]:
            ax.set_visible(False)
        for ax, (recipe, compared) in zip(axes, recipes.items(), strict=False):
            _finish(ax, recipe)
            ax.axvline(0, color="black", linewidth=1)
            for dataset, x in compared.items():
                y = names.index(dataset)
                color = SIGN_COLORS[x.sign]
                dots = {"color": color, "alpha": 0.5, "markersize": 4}
                ax.plot(x.values, [y - 0.16] * len(x.values), "o", **dots)
                ax.plot([x.low, x.high], [y + 0.12] * 2, color=color, linewidth=3)
                ax.plot(x.mean, y + 0.12, "D", color=color, markersize=5)
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
            ax.spines["left"].set_visible(False)
    drawn = [ax for ax in figure.axes if ax.get_visible()]
    limits = [x for ax in drawn for x in ax.get_xlim()]
    for ax in drawn:
        ax.set_xlim(min(limits), max(limits))
    figure.supxlabel(f"{xlabel}\n◆ mean with its 95 % interval    ● a seed", fontsize=NORMAL)
    _save(figure, path)


def draw_losses(path: Path, panels: Mapping[str, pd.DataFrame]) -> None:
    """
    Draw a panel per dataset with a line per recipe: the mean over the seeds, in a band from the
    lowest to the highest.

    Args:
        path (Path): the PNG to write.
        panels: by the title of the dataset, the columns "recipe", "iteration" and "loss".
    """
    figure = Figure((WIDTH, 3.1), DPI, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    recipes = list(dict.fromkeys(x for panel in panels.values() for x in panel["recipe"]))
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        _finish(ax, title)
        for recipe, points in panel.groupby("recipe", sort=False):
            loss = points.groupby("iteration")["loss"].agg(["mean", "min", "max"])
            color = COLORS[recipes.index(recipe)]
            ax.fill_between(loss.index, loss["min"], loss["max"], color=color, alpha=0.15, lw=0)
            ax.plot(loss.index, loss["mean"], "o-", color=color, markersize=4, label=recipe)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("iteration", fontsize=SMALL)
    axes[0].set_ylabel("mean loss over all RoIs", fontsize=NORMAL)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=4, fontsize=SMALL, frameon=False
    )
    _save(figure, path)


def draw_parts(path: Path, steps: pd.DataFrame) -> None:
    """
    Draw a bar per training step, stacked from its parts, in units of the reference's step.

    Args:
        path (Path): the PNG to write.
        steps (pd.DataFrame): lines of the kind "step".
    """
    parts = pd.DataFrame(list(steps["parts"]))
    # Timed part by part, a step may take longer: the parts share the time it takes by itself.
    parts = parts.mul(steps["ratio"].to_numpy() / parts.sum(axis=1), axis=0)
    titles = [f"{x['model']}, {x['variant']}, B = {x['B']:.0f}" for x in steps.to_dict("records")]
    figure = Figure((WIDTH, 0.9 + 0.3 * len(titles)), DPI, layout="constrained")
    ax = figure.subplots()
    _finish(ax, "")
    left = np.zeros(len(parts))
    # Blank rows separate the models.
    y = (
        np.arange(len(titles))
        + 0.6 * (steps["model"] != steps["model"].shift()).cumsum().to_numpy()
    )
    for (part, width), color in zip(parts.items(), COLORS[::-1], strict=True):
        ax.barh(y, width, 0.8, left, color=color, edgecolor="white", linewidth=0.6, label=part)
        left += width
    for end, center, ratio in zip(left, y, steps["ratio"], strict=True):
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(end + 0.04, center, f"{ratio:.2f}", va="center", fontsize=SMALL, bbox=white)
    ax.axvline(1, color="black", linewidth=1, linestyle="dotted")
    ax.set_yticks(y, titles)
    ax.set_ylim(y[-1] + 0.7, y[0] - 0.7)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("time of a step, relative to stock", fontsize=NORMAL)
    figure.legend(loc="outside upper center", ncols=4, fontsize=SMALL, frameon=False)
    _save(figure, path)


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=NORMAL, fontweight="bold", loc="left")
    ax.tick_params(labelsize=SMALL)
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    """
    In a palette, which is a third of the size; and without metadata, so that the same results give
    the same file.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with atomic_file(path) as file:
        image.quantize(256).save(file, "png", optimize=True)
