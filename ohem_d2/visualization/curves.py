"""
Curves of training runs.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Run", "draw_curves", "draw_scalars", "find_scalars"]

COLORS, LINES = ("#7f7f7f", "#d62728"), ("solid", "dashed")
# Besides all losses, and AP if it was measured during training.
SCALARS = ("roi_head/num_fg_samples", "ohem/mean_loss", "lr", "time")


class Run(NamedTuple):
    """
    A training run to show.
    """

    name: str
    metrics: list[dict[str, float]]  # lines of metrics.json
    # The demo's:
    mean_roi_loss: Mapping[int, float] = {}  # mean loss over all RoIs, by iteration
    peak_memory: float = math.nan  # of the process, in MiB

    def series(self, *names: str) -> tuple[list[int], list[float]]:
        """
        Iterations and the sum of the named scalars at each. Both are empty if the run lacks one.
        """
        values = {
            # Of an iteration that a resumed run repeats, the last counts.
            int(x["iteration"]): sum(x[name] for name in names)
            for x in self.metrics
            if all(name in x for name in names)
        }
        iterations = sorted(values)
        return iterations, [values[i] for i in iterations]


def draw_curves(path: Path, runs: list[Run]) -> None:
    """
    Draw three panels: the training loss, the mean loss over all RoIs, and the foreground among the
    RoIs trained on.
    """
    figure = Figure(figsize=(11, 3.2), dpi=110, layout="constrained")
    loss, all_rois, foreground = figure.subplots(1, 3)
    for run, color in zip(runs, COLORS, strict=True):
        loss.plot(*run.series("loss_cls", "loss_box_reg"), color=color, label=run.name)
        all_rois.plot(
            list(run.mean_roi_loss),
            list(run.mean_roi_loss.values()),
            color=color,
            marker="o",
            markersize=3,
            label=run.name,
        )
        foreground.plot(*run.series("roi_head/num_fg_samples"), color=color, label=run.name)
    _finish(loss, "Loss on the RoIs trained on\n(not comparable: OHEM's are hard)")
    _finish(all_rois, "Mean loss over all RoIs\nof training images (comparable)")
    _finish(foreground, "Foreground RoIs trained on\nper image")
    figure.savefig(path)


def find_scalars(runs: Sequence[Run]) -> list[str]:
    """
    Returns:
        list[str]: of the scalars that all runs have: losses, SCALARS, and AP and AP50 if a run was
        evaluated more than once.
    """
    names = [
        name
        for name in dict.fromkeys(name for line in runs[0].metrics for name in line)
        if all(run.series(name)[0] for run in runs)
    ]
    losses = [x for x in names if x == "total_loss" or x.startswith("loss_")]
    metrics = [
        x
        for x in names
        if x.endswith(("/AP", "/AP50")) and any(len(run.series(x)[0]) > 1 for run in runs)
    ]
    return [
        *sorted(losses, key="total_loss".__ne__),  # total_loss first
        *[x for x in SCALARS if x in names],
        *metrics,
    ]


def draw_scalars(path: Path, runs: Sequence[Run], scalars: Sequence[str]) -> None:
    """
    Draw a panel for each scalar, with a line for each of two runs.
    """
    columns = 3
    rows = -(-len(scalars) // columns)
    figure = Figure(figsize=(11, 2.6 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax in axes[len(scalars) :]:
        ax.set_axis_off()
    for ax, scalar in zip(axes[: len(scalars)], scalars, strict=True):
        for run, color, line in zip(runs, COLORS, LINES, strict=True):
            ax.plot(
                *run.series(scalar),
                color=color,
                linestyle=line,
                marker=".",
                markersize=4,
                linewidth=1.2,
                label=run.name,
            )
        _finish(ax, scalar)
    figure.savefig(path)


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9, parse_math=False)
    ax.set_xlabel("iteration", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
