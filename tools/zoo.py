#!/usr/bin/env python3
"""
Turn every region-based config in detectron2's model zoo into its OHEM twin. On synthetic inputs and
the CPU, each model takes a training step and two inference passes: as it is, and with iterative box
regression and voting.

Prints a table of the RoIs per image that mining saw and kept, or why a config was skipped. Models
are shrunk, so that this takes minutes. Fails if a config fails, unless it has no RoIs or needs a
part of detectron2 that is missing here.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from ohem_d2 import add_ohem_config, use_ohem
from ohem_d2.modeling import DetectionMerger, IterativeROIHeads
from ohem_d2.modeling.roi_heads.box_branch import box_predictors

CONFIGS = Path(model_zoo.__file__).parent / "configs"
HEIGHT, WIDTH = 192, 256
NUM_ROIS, BATCH_SIZE_PER_IMAGE = 200, 64


class Result(NamedTuple):
    config: str
    step: str  # "done", or "skipped" or "FAILED"
    seen: str = ""  # RoIs per image; a cascade's first stage
    kept: str = ""
    reason: str = ""


def list_configs(folder: Path = CONFIGS) -> list[str]:
    """
    Returns:
        list[str]: all complete configs of the model zoo, YAML and LazyConfig.
    """
    files = [*folder.rglob("*.yaml"), *folder.rglob("*.py")]
    names = sorted(str(x.relative_to(folder)) for x in files if not x.name.startswith("Base-"))
    return [x for x in names if not x.startswith("common/")]


def load_config(name: str) -> Union[CfgNode, DictConfig]:
    if name.endswith(".py"):
        return LazyConfig.load(str(CONFIGS / name))
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name))
    return cfg


def make_small(cfg: CfgNode) -> None:
    """
    Reduce layers, RoIs and channels (to multiples of 32, for group normalization).
    """
    model = cfg.MODEL
    model.RPN.POST_NMS_TOPK_TRAIN = NUM_ROIS
    model.RPN.POST_NMS_TOPK_TEST = NUM_ROIS // 4
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = BATCH_SIZE_PER_IMAGE
    model.DEVICE = "cpu"
    model.WEIGHTS = ""
    model.RESNETS.DEPTH = min(model.RESNETS.DEPTH, 50)
    model.RESNETS.STEM_OUT_CHANNELS = 32
    model.RESNETS.RES2_OUT_CHANNELS = 64
    model.RESNETS.WIDTH_PER_GROUP = max(32 // model.RESNETS.NUM_GROUPS, 1)
    model.FPN.OUT_CHANNELS = 32
    model.ROI_BOX_HEAD.FC_DIM = 64
    model.ROI_BOX_HEAD.CONV_DIM = 32
    model.ROI_MASK_HEAD.CONV_DIM = 32
    model.ROI_KEYPOINT_HEAD.CONV_DIMS = (32, 32)
    model.SEM_SEG_HEAD.CONVS_DIM = 32


def build(cfg: Union[CfgNode, DictConfig]) -> nn.Module:
    if isinstance(cfg, CfgNode):
        make_small(cfg)
        model = build_model(cfg)
    else:
        cfg.model.proposal_generator.post_nms_topk = (NUM_ROIS, NUM_ROIS // 4)
        cfg.model.roi_heads.batch_size_per_image = BATCH_SIZE_PER_IMAGE
        model = instantiate(cfg.model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SyncBatchNorm):  # needs several processes
                setattr(parent, name, nn.BatchNorm2d(child.num_features))
    if model.proposal_generator is not None:
        # Propose the anchors: random weights would collapse them.
        nn.init.zeros_(model.proposal_generator.rpn_head.anchor_deltas.weight)
    return model


def make_inputs(model: nn.Module, bitmask: bool) -> list[dict]:
    """
    Two images with three objects in detectron2's standard format, with all inputs of any model.
    """
    rng = np.random.default_rng(0)
    heads = model.roi_heads
    inputs = []
    for _ in range(2):
        corners = rng.uniform([0, 0], [WIDTH / 2, HEIGHT / 2], size=(3, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(30, 120, size=(3, 2))], axis=1)
        polygons = [[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in boxes]
        instances = Instances(
            (HEIGHT, WIDTH),
            gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
            gt_classes=torch.tensor(rng.integers(heads.num_classes, size=3)),
        )
        instances.gt_masks = (
            BitMasks.from_polygon_masks(polygons, HEIGHT, WIDTH)
            if bitmask
            else PolygonMasks(polygons)
        )
        if getattr(heads, "keypoint_on", False):
            count = heads.keypoint_head.num_keypoints
            points = rng.uniform(boxes[:, None, :2], boxes[:, None, 2:], size=(3, count, 2))
            visible = np.full((3, count, 1), 2.0)
            instances.gt_keypoints = Keypoints(np.concatenate([points, visible], axis=2))
        near = np.concatenate([boxes + rng.normal(0, 5, size=(3, 4)) for _ in range(20)])
        corners = rng.uniform([0, 0], [WIDTH - 16, HEIGHT - 16], size=(NUM_ROIS, 2))
        sizes = rng.uniform(8, 60, size=(NUM_ROIS, 2))
        anywhere = np.concatenate([corners, corners + sizes], axis=1)
        proposals = Boxes(torch.tensor(np.concatenate([near, anywhere]), dtype=torch.float32))
        proposals.clip((HEIGHT, WIDTH))
        inputs.append(
            {
                "image": torch.tensor(
                    rng.integers(256, size=(3, HEIGHT, WIDTH)), dtype=torch.uint8
                ),
                "instances": instances,
                "proposals": Instances(
                    (HEIGHT, WIDTH),
                    proposal_boxes=proposals,
                    objectness_logits=torch.zeros(len(proposals)),
                ),
                "sem_seg": torch.zeros((HEIGHT, WIDTH), dtype=torch.int64),
                "height": HEIGHT,
                "width": WIDTH,
            }
        )
    return inputs


def train_and_infer(model: nn.Module, inputs: list[dict]) -> tuple[float, float]:
    """
    Returns:
        (float, float): RoIs per image that mining saw and kept.
    """
    model.train()
    model.roi_heads.ohem_warmup_iters = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with EventStorage() as storage:
        losses = model(inputs)
        scalars = {name: value for name, (value, _) in storage.latest().items()}
    total = sum(losses.values())
    if not torch.isfinite(total):
        raise FloatingPointError(f"The loss is not finite: {losses}")
    total.backward()
    optimizer.step()
    model.eval()
    infer(model, inputs)
    for predictor in box_predictors(model.roi_heads):
        nn.init.normal_(predictor.cls_score.weight)  # for high scores
    merge = DetectionMerger(nms_thresh=0.5, topk_per_image=10, voting=True)
    model.roi_heads = IterativeROIHeads(
        roi_heads=model.roi_heads, num_rounds=2, score_thresh=0.05, merge=merge
    )
    infer(model, inputs)
    return scalars["ohem/num_rois"], scalars["ohem/num_kept"]


@torch.no_grad()
def infer(model: nn.Module, inputs: list[dict]) -> None:
    outputs = model(inputs)
    if len(outputs) != len(inputs) or "instances" not in outputs[0]:
        raise RuntimeError("Inference returned no instances.")


def is_missing_here(error: Exception) -> bool:
    """
    Whether the installed detectron2 lacks something that the config needs even without OHEM.
    """
    return isinstance(error, (ImportError, NotImplementedError)) or "_C" in str(error)


def try_config(name: str) -> Result:
    torch.manual_seed(0)
    try:
        cfg = load_config(name)
        use_ohem(cfg)
    except ValueError as e:
        return Result(name, "skipped", reason=str(e))
    except Exception as e:
        return _failure(name, e)
    try:
        is_yacs = isinstance(cfg, CfgNode)
        bitmask = is_yacs and cfg.INPUT.MASK_FORMAT == "bitmask"
        model = build(cfg)
        if not is_yacs:
            bitmask = cfg.dataloader.train.mapper.get("instance_mask_format") == "bitmask"
        seen, kept = train_and_infer(model, make_inputs(model, bitmask))
    except Exception as e:
        return _failure(name, e)
    return Result(name, "done", f"{seen:g}", f"{kept:g}")


def _failure(name: str, error: Exception) -> Result:
    step = "skipped" if is_missing_here(error) else "FAILED"
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Result(name, step, reason=reason[:100])


def main(print_table: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", help="configs of the zoo (default: all)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    results = [try_config(name) for name in tqdm(args.configs or list_configs(), unit="config")]
    print_table(tabulate(results, headers=["config", "step", "RoIs seen", "kept", "reason"]))
    counts = {x: sum(r.step == x for r in results) for x in ("done", "skipped", "FAILED")}
    print_table(f"\n{counts['done']} done, {counts['skipped']} skipped, {counts['FAILED']} failed.")
    if counts["FAILED"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
