"""
The table of the demo's page, report.html.
"""

from statistics import median
from typing import NamedTuple

from tabulate import tabulate

from .curves import Run

__all__ = ["Table", "compare"]


class Table(NamedTuple):
    columns: list[str]
    rows: dict[str, list[str]]

    def __str__(self) -> str:
        """
        The table in text, for a terminal.
        """
        return tabulate(
            [[label, *values] for label, values in self.rows.items()],
            headers=["", *self.columns],
            colalign=["left"] + ["right"] * len(self.columns),
            disable_numparse=True,  # the cells are formatted
        )


def compare(runs: list[Run], datasets: dict[str, str]) -> Table:
    """
    Args:
        runs (list[Run]):
        datasets (dict[str, str]): the datasets that the runs were evaluated on, by the name to
            show.

    Returns:
        Table: a column for each run.
    """
    rows = {}
    for label, dataset in datasets.items():
        for metric, title in [("AP", "mAP, IoU .5 to .95"), ("AP50", "AP50")]:
            rows[f"{title}, {label}"] = [
                f"{run.series(f'{dataset}/bbox/{metric}')[1][-1]:.1f}" for run in runs
            ]
    rows["mean loss over all RoIs"] = [
        f"{list(run.mean_roi_loss.values())[-1]:.4f}" for run in runs
    ]
    rows["seconds an iteration"] = [f"{median(run.series('time')[1]):.3f}" for run in runs]
    rows["peak memory of the process, MiB"] = [f"{run.peak_memory:.0f}" for run in runs]
    return Table([run.name for run in runs], rows)
