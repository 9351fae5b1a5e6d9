"""
One training of benchmarks.laboratory.compare: train_net.py, then the mean loss over all RoIs of
each of its checkpoints, and the errors of the last. Writes result.json to the folder of the run.
"""

import argparse
import json
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN, build_model

import benchmarks.laboratory.frozen_stages
import benchmarks.laboratory.heads  # noqa: F401  (both are in detectron2's registries)
from benchmarks.laboratory.errors import errors_at_recalls
from benchmarks.laboratory.experiments import Run, config_digest, options_of
from benchmarks.laboratory.laboratories import LABORATORIES
from benchmarks.laboratory.prepare import Materials
from benchmarks.provenance import provenance, require_clean_commit
from ohem_d2.commands import train
from ohem_d2.data.datasets.by_path import folder_name
from ohem_d2.engine import fall_back_to_cpu, load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader
from ohem_d2.evaluation.mean_roi_loss import features_and_rois
from ohem_d2.modeling.roi_heads import compute_roi_losses
from ohem_d2.utils import read_metrics, write_json

NUM_CHECKPOINTS = 4
NUM_IMAGES = 30  # of each split, whose RoIs are measured

# What is kept of metrics.json, and its name in result.json.
CURVES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "roi_head/num_fg_samples": "num_fg",
    "roi_head/num_bg_samples": "num_bg",
    "ohem/bg_loss_cv": "bg_loss_cv",  # near 0 where the box head is dead; only while it is mined
}


def to_opts(options: Mapping[str, Any]) -> list[Any]:
    return [x for item in options.items() for x in item]


def train_and_evaluate(config_file: str, options: Mapping[str, Any]) -> bool:
    """
    Returns:
        bool: False if training diverged, that is, its loss was not finite.
    """
    args = train.argument_parser().parse_args(["--config-file", config_file])
    args.opts = to_opts(options)
    try:
        train.run(args)
    except FloatingPointError:
        return False
    return True


class RoIs(NamedTuple):
    """
    What some images' RoIs are to a model.
    """

    mean_loss: float
    per_image: float
    foreground_share: float


def measure_rois(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    """
    Args:
        cfg (CfgNode): names the images, and the loss to measure.
        folder (Path): the run's OUTPUT_DIR.

    Returns:
        dict: "mean_roi_loss" and "mean_test_roi_loss", the iterations behind each checkpoint and
        its mean loss over all RoIs of the first training and test images; and for the last
        checkpoint "num_rois", the number of RoIs per training image, and "foreground_share" among
        them.
    """
    model = build_model(cfg)
    train, test = (
        list(islice(build_mean_roi_loss_loader(cfg, name), NUM_IMAGES))
        for (name,) in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    measured: dict[str, Any] = {
        "mean_roi_loss": [],
        "mean_test_roi_loss": [],
        # A run may diverge before its first checkpoint.
        "num_rois": None,
        "foreground_share": None,
    }
    for file in sorted(folder.glob("model_*[0-9].pth")):
        DetectionCheckpointer(model).load(str(file))
        iterations = int(file.stem.removeprefix("model_")) + 1
        rois = rois_of(model, train)
        measured["mean_roi_loss"].append((iterations, rois.mean_loss))
        measured["mean_test_roi_loss"].append((iterations, rois_of(model, test).mean_loss))
        measured.update(num_rois=rois.per_image, foreground_share=rois.foreground_share)
    return measured


@torch.no_grad()
def rois_of(model: GeneralizedRCNN, inputs: list[list[dict]]) -> RoIs:
    total, num_foreground, count = 0.0, 0, 0
    with inference_context(model):
        for batch in inputs:
            features, rois = features_and_rois(model, batch)
            for x in compute_roi_losses(model.roi_heads, features, rois):
                total += float((x.loss_cls + x.loss_box_reg).sum())
                num_foreground += int((x.gt_classes < model.roi_heads.num_classes).sum())
                count += len(x)
    return RoIs(total / count, count / len(inputs), num_foreground / count)


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
        "curves": {
            "iteration": [x["iteration"] for x in lines],
            **{
                new: [round(x[old], 4) if old in x else None for x in lines]
                for old, new in CURVES.items()
            },
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--materials", type=Materials.from_json, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the folder of this run")
    parser.add_argument("--trial", action="store_true", help="accept a changed work tree")
    parser.add_argument("run", type=lambda x: Run(*json.loads(x)), help="its fields, in JSON")
    args = parser.parse_args()

    if not args.trial:
        require_clean_commit()
    origin = provenance()  # before files are edited while it runs
    run, materials = args.run, args.materials
    remembering = {"MODEL.BACKBONE.NAME": "build_remembering_backbone"}
    shared = {
        **materials.options(run.dataset),
        **(remembering if LABORATORIES[run.laboratory].classifier else {}),
        "OUTPUT_DIR": str(args.output),
        "SEED": run.seed,
        "SOLVER.CHECKPOINT_PERIOD": max(run.iterations // NUM_CHECKPOINTS, 1),
    }
    finished = train_and_evaluate(materials.config, {**shared, **options_of(run)})

    # Without the recipe's options: the loss is measured in the same way for all.
    cfg = load_config(materials.config, to_opts(shared))
    fall_back_to_cpu(cfg)
    (test,) = cfg.DATASETS.TEST
    detections = args.output / "inference" / folder_name(test)
    result = {
        **run._asdict(),
        "test_split": materials.test_split,
        "options": options_of(run),
        "config": config_digest(LABORATORIES[run.laboratory].config),
        **summarize(read_metrics(args.output), run.iterations, finished),
        **measure_rois(cfg, args.output),
        "errors": errors_at_recalls(test, detections) if finished else None,
        **origin,
    }
    write_json(args.output / "result.json", result)


if __name__ == "__main__":
    main()
