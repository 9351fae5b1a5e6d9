"""
Lines of the benchmarks' result files.
"""

import sampling_experiments

PROVENANCE = {
    "commit": "abc1234",
    "machine": "CPU, 2 cores",
    "torch": "2.9.0",
    "detectron2": "0.6",
    "date": "2026-01-01",
}


def run_line(dataset, recipe, seed, ap, seconds=100.0, **fields):
    """
    A line of a run, which diverged at iteration 117 if `ap` is None. It logged 20 steps: the
    first two kept 6 and 8 foreground RoIs per image, the last two 10 and 12, the others none.
    """
    diverged = ap is None
    num_fg = [6, 8, *[0] * 16, 10, 12]
    return {
        "dataset": dataset,
        "recipe": recipe,
        "seed": seed,
        "options": dict(sampling_experiments.RECIPES[recipe].options),
        "config": sampling_experiments.config_digest(sampling_experiments.DATASETS[dataset].config),
        "iterations": 400,
        "AP": ap,
        "AP50": None if diverged else 2 * ap,
        "diverged_at": 117 if diverged else None,
        "seconds": None if diverged else seconds,
        "seconds_per_iteration": None if diverged else seconds / 400,
        "mean_roi_loss": [] if diverged else [[200, 0.6 + seed / 100], [400, 0.4]],
        "curves": {
            "iteration": list(range(19, 400, 20)),
            "num_fg": num_fg,
            "num_bg": [32 - x for x in num_fg],
        },
        **PROVENANCE,
        **fields,
    }
