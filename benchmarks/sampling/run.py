"""
One training of benchmarks.sampling.compare: train_net.py, then the mean loss over all RoIs of each
of its checkpoints. Writes result.json to the folder of the run.
"""

import argparse
import math
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN, build_model

from benchmarks.laboratory.run import to_opts, train_and_evaluate
from benchmarks.provenance import provenance, require_clean_commit
from benchmarks.sampling.datasets import register
from benchmarks.sampling.experiments import (
    CONFIGS,
    DATASETS,
    RECIPES,
    Run,
    config_digest,
    options_of,
)
from benchmarks.sampling.half_precision import HalfPrecision
from ohem_d2.engine import fall_back_to_cpu, load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader, mean_roi_loss
from ohem_d2.evaluation.mean_roi_loss import features_and_rois
from ohem_d2.utils import read_metrics, write_json

NUM_CHECKPOINTS = 4
NUM_IMAGES = 60  # training images whose RoIs are measured

# What is kept of metrics.json, and its name in result.json.
CURVES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "roi_head/num_fg_samples": "num_fg",
    "roi_head/num_bg_samples": "num_bg",
}


def measure_rois(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    """
    Args:
        cfg (CfgNode): names the loss to measure and the images.
        folder (Path): the run's OUTPUT_DIR.

    Returns:
        dict: "mean_roi_loss", the iterations behind each checkpoint and its mean loss over all RoIs
        of the first training images; for the last checkpoint "foreground_share" of these RoIs, and
        "half_precision", see :func:`half_precision`.
    """
    model = build_model(cfg)
    loader = build_mean_roi_loss_loader(cfg, cfg.DATASETS.TRAIN[0])
    inputs = list(islice(loader, NUM_IMAGES))
    losses: list[tuple[int, float]] = []
    for file in sorted(folder.glob("model_*[0-9].pth")):
        DetectionCheckpointer(model).load(str(file))
        iterations = int(file.stem.removeprefix("model_")) + 1
        losses.append((iterations, mean_roi_loss(model, inputs)))
    # A run may diverge before its first checkpoint.
    share = foreground_share(model, inputs) if losses else None
    half = half_precision(model, inputs) if losses else None
    return {"mean_roi_loss": losses, "foreground_share": share, "half_precision": half}


def foreground_share(model: GeneralizedRCNN, inputs: list[list[dict]]) -> float:
    """
    Returns:
        float: the share of foreground in all RoIs that the model proposes.
    """
    num_foreground, count = 0, 0
    with inference_context(model):
        for batch in inputs:
            for rois in features_and_rois(model, batch)[1]:
                num_foreground += int((rois.gt_classes < model.roi_heads.num_classes).sum())
                count += len(rois)
    return num_foreground / count


def half_precision(model: GeneralizedRCNN, inputs: list[list[dict]]) -> dict[str, Any]:
    """
    Returns:
        dict[str, Any]: see :class:`HalfPrecision`.
    """
    half = HalfPrecision()
    with inference_context(model):
        for batch in inputs:
            half.add(model, *features_and_rois(model, batch))
    return half.result()


def summarize(metrics: list[dict[str, float]], iterations: int, finished: bool) -> dict[str, Any]:
    """
    Args:
        metrics (list[dict]): from :func:`read_metrics`.
        iterations (int): of the whole run.
        finished (bool): from :func:`train_and_evaluate`.

    Returns:
        dict: "AP" and "AP50" in percent or, if training diverged, the iteration "diverged_at"; the
        seconds of the training; and its curves.
    """
    lines = [x for x in metrics if "total_loss" in x]
    # Each logged time is the median of 20 iterations, so pauses of the machine do not count. The
    # first iterations have none.
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
    parser.add_argument("--data", type=Path, required=True, help="the folder of the datasets")
    parser.add_argument("--backbone-weights", required=True, help="a checkpoint of the backbone")
    parser.add_argument("--output", type=Path, required=True, help="the folder of this run")
    parser.add_argument("--trial", action="store_true", help="accept a changed work tree")
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("seed", type=int)
    args = parser.parse_args()

    if not args.trial:
        require_clean_commit()
    origin = provenance()  # before files are edited while it runs
    run = Run(args.dataset, args.recipe, args.seed)
    dataset = DATASETS[run.dataset]
    train, test = register(run.dataset, args.data)
    config_file = str(CONFIGS / dataset.config)
    iterations = load_config(config_file, to_opts(options_of(run))).SOLVER.MAX_ITER
    shared = {
        **dataset.options,
        "DATASETS.TRAIN": (train,),
        "DATASETS.TEST": (test,),
        "MODEL.WEIGHTS": args.backbone_weights if dataset.pretrained else "",
        "OUTPUT_DIR": str(args.output),
        "SEED": run.seed,
        "SOLVER.CHECKPOINT_PERIOD": max(iterations // NUM_CHECKPOINTS, 1),
    }
    finished = train_and_evaluate(config_file, {**shared, **RECIPES[run.recipe].options})

    # Without the recipe's options: the loss is measured in the same way for all.
    cfg = load_config(config_file, to_opts(shared))
    fall_back_to_cpu(cfg)
    result = {
        **run._asdict(),
        "options": options_of(run),
        "config": config_digest(dataset.config),
        "iterations": iterations,
        **summarize(read_metrics(args.output), iterations, finished),
        **measure_rois(cfg, args.output),
        **origin,
    }
    write_json(args.output / "result.json", result)


if __name__ == "__main__":
    main()
