"""
Curves of training runs.
"""

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Run", "draw_curves"]

COLORS = ("#7f7f7f", "#d62728")


class Run(NamedTuple):
    """
    One training run, as the report shows it.
    """

    name: str
    metrics: list[dict[str, float]]  # the lines of metrics.json
    mean_roi_loss: dict[int, float]  # iteration of the checkpoint -> mean loss over all RoIs
    peak_memory: float  # of the process, in MiB

    def series(self, *names: str) -> tuple[list[int], list[float]]:
        """
        Iterations, and the sum of some scalars at each. Both are empty if the run has no such
        scalar.
        """
        lines = [x for x in self.metrics if all(name in x for name in names)]
        return [int(x["iteration"]) for x in lines], [sum(x[n] for n in names) for x in lines]


def draw_curves(path: Path, runs: list[Run]) -> None:
    """
    Draw three panels: what the runs were trained on, what they learned, and the foreground among
    the RoIs that they were trained on.
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
    _finish(loss, "Loss on the RoIs trained on\n(not comparable: OHEM's are the hard ones)")
    _finish(all_rois, "Mean loss over all RoIs\nof training images (comparable)")
    _finish(foreground, "Foreground among the RoIs\ntrained on, an image")
    figure.savefig(path)


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set_xlabel("iteration", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
