#!/usr/bin/env python3
"""
One of the runs that benchmarks/compare_sampling.py starts: train_net.py, then the mean loss over
all RoIs of each of its checkpoints. What came out is in result.json of its folder.
"""

import argparse
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from kept_rois import hard_by_iou
from provenance import provenance
from sampling_experiments import (
    CONFIGS,
    DATASETS,
    RECIPES,
    Run,
    config_digest,
    num_iterations,
    options_of,
    register,
)

import train_net
from ohem_d2.engine import fall_back_to_cpu, load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader, mean_roi_loss
from ohem_d2.utils import read_metrics, write_json

NUM_CHECKPOINTS = 4
NUM_LOOK_IMAGES = 60  # training images whose RoIs are looked at

# What is kept of metrics.json, and its name in result.json.
CURVES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "roi_head/num_fg_samples": "num_fg",
    "roi_head/num_bg_samples": "num_bg",
}


def to_opts(options: Mapping[str, Any]) -> list[Any]:
    return [x for item in options.items() for x in item]


def train_and_evaluate(config_file: str, options: Mapping[str, Any]) -> bool:
    """
    Returns:
        bool: whether training went to its end. If not, its loss was not finite at some point.
    """
    args = default_argument_parser().parse_args(["--config-file", config_file])
    args.opts = to_opts(options)
    try:
        train_net.main(args)
    except FloatingPointError:  # of detectron2's
        return False
    return True


def look_at_rois(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    """
    Args:
        cfg (CfgNode): says which loss is measured, and on which images.
        folder (Path): OUTPUT_DIR of the run.

    Returns:
        dict: "mean_roi_loss", for each checkpoint the number of iterations behind it and the mean
        loss over all RoIs of the first training images; and "hard_by_iou", of the last checkpoint.
    """
    model = build_model(cfg)
    loader = build_mean_roi_loss_loader(cfg, cfg.DATASETS.TRAIN[0])
    inputs = list(islice(loader, NUM_LOOK_IMAGES))
    losses: list[tuple[int, float]] = []
    for file in sorted(folder.glob("model_*[0-9].pth")):
        DetectionCheckpointer(model).load(str(file))
        iterations = int(file.stem.removeprefix("model_")) + 1
        losses.append((iterations, mean_roi_loss(model, inputs)))
    batch_size = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    # A run may diverge before its first checkpoint.
    by_iou = hard_by_iou(model, inputs, batch_size) if losses else None
    return {"mean_roi_loss": losses, "hard_by_iou": by_iou}


def summarize(metrics: list[dict[str, float]], iterations: int, finished: bool) -> dict[str, Any]:
    """
    Args:
        metrics (list[dict]): from :func:`read_metrics`.
        iterations (int): of the whole run.
        finished (bool): from :func:`train_and_evaluate`.

    Returns:
        dict: "AP" and "AP50" in percent or, if it did not finish, "diverged_at", the iteration;
        how long training took; and its curves. The time is that of the iterations that are
        logged, each the median of the 20 before it: others, in which the machine did something
        else, do not count.
    """
    lines = [x for x in metrics if "total_loss" in x]
    # The first iterations have no time, so a run that diverges at once has none.
    seconds = fmean([x["time"] for x in lines if "time" in x] or [math.nan])
    scores = metrics[-1] if finished else {}
    return {
        "AP": scores.get("bbox/AP"),
        "AP50": scores.get("bbox/AP50"),
        "diverged_at": None if finished else int(lines[-1]["iteration"]) + 1,
        "seconds": round(seconds * iterations, 1),
        "seconds_per_iteration": round(seconds, 4),
        "curves": {
            "iteration": [x["iteration"] for x in lines],
            **{new: [round(x[old], 4) for x in lines] for old, new in CURVES.items()},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone-weights", required=True)
    parser.add_argument("--output", type=Path, required=True, help="the folder of this run")
    parser.add_argument("dataset")
    parser.add_argument("recipe")
    parser.add_argument("seed", type=int)
    args = parser.parse_args()

    origin = provenance()  # before files are edited while it runs
    run = Run(args.dataset, args.recipe, args.seed)
    dataset, recipe = DATASETS[run.dataset], RECIPES[run.recipe]
    names = register(run.dataset, args.data)
    config_file = str(CONFIGS / dataset.config)
    setting = {
        **dataset.options,
        "DATASETS.TRAIN": (names.train,),
        "DATASETS.TEST": (names.test,),
        "MODEL.WEIGHTS": args.backbone_weights if dataset.pretrained else "",
        "OUTPUT_DIR": str(args.output),
        "SEED": run.seed,
    }
    iterations = num_iterations(run)
    setting["SOLVER.CHECKPOINT_PERIOD"] = max(iterations // NUM_CHECKPOINTS, 1)
    finished = train_and_evaluate(config_file, {**setting, **recipe.options})

    # One loss for all recipes, the reference's, and on images with all of their annotations.
    setting["DATASETS.TRAIN"] = (names.complete_train,)
    cfg = load_config(config_file, to_opts(setting))
    fall_back_to_cpu(cfg)
    result = {
        **run._asdict(),
        "options": options_of(run.dataset, run.recipe),
        "config": config_digest(dataset.config),
        "iterations": iterations,
        **summarize(read_metrics(args.output), iterations, finished),
        **look_at_rois(cfg, args.output),
        **origin,
    }
    write_json(args.output / "result.json", result)


if __name__ == "__main__":
    main()
