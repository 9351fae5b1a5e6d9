"""
The mean loss over all RoIs (Figure 3 of Shrivastava et al. 2016). Unlike the training loss, it
does not depend on which RoIs are sampled for training.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor

from ..data import build_annotated_loader, get_annotated_dicts
from ..modeling.roi_heads import check_minable, compute_roi_losses, label_rois
from ..modeling.roi_heads.box_branch import box_predictors
from ..modeling.roi_heads.ignore_regions import DEFAULT_IOA_THRESH
from ..utils import InputError

__all__ = [
    "ROI_LOSS_FILE",
    "build_mean_roi_loss_loader",
    "features_and_rois",
    "find_checkpoints",
    "mean_roi_loss",
    "read_roi_losses",
]

ROI_LOSS_FILE = "roi_loss.json"  # of `ohem-d2 roi-loss`


def build_mean_roi_loss_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """
    A loader for :func:`mean_roi_loss`: see :func:`build_annotated_loader`.
    """
    return build_annotated_loader(cfg, get_annotated_dicts(cfg, [dataset_name], is_train=False))


def find_checkpoints(folder: str | os.PathLike, max_iter: int) -> dict[int, Path]:
    """
    Args:
        folder (str): OUTPUT_DIR of a training.
        max_iter (int): its SOLVER.MAX_ITER.

    Returns:
        dict[int, Path]: its checkpoints by the number of iterations before them, in that order.
    """
    # The names have the number of the last iteration, counted from 0.
    checkpoints = {
        int(file.stem.removeprefix("model_")) + 1: file
        for file in sorted(Path(folder).glob("model_[0-9]*.pth"))
    }
    final = Path(folder, "model_final.pth")
    return checkpoints | ({max_iter: final} if final.exists() else {})


def read_roi_losses(folder: Path, dataset: str) -> dict[int, float]:
    """
    Args:
        folder (Path): OUTPUT_DIR of a training.

    Returns:
        dict[int, float]: by iteration, what `ohem-d2 roi-loss` has measured. Empty if it has not.

    Raises:
        InputError: if the file is something else, or of another dataset.
    """
    file = folder / ROI_LOSS_FILE
    if not file.exists():
        return {}
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        losses = {int(k): float(x) for k, x in content["losses"].items()}
        measured_on = str(content["dataset"])
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{file} is not what `ohem-d2 roi-loss` writes: move it away. ({e})"
        ) from e
    if measured_on != dataset:
        raise InputError(f"{file} is about {measured_on}, not {dataset}: move it away.")
    return losses


@torch.no_grad()
def features_and_rois(
    model: GeneralizedRCNN, inputs: list[dict]
) -> tuple[dict[str, Tensor], list[Instances]]:
    """
    Args:
        model (GeneralizedRCNN): in evaluation mode, so that its RoIs are those of inference.
        inputs: a batch in detectron2's standard format, with "instances".

    Returns:
        (dict[str, Tensor], list[Instances]): the features, and for each image all labeled RoIs,
        with the ground-truth boxes and without those on ignore regions.
    """
    heads = model.roi_heads
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    if model.proposal_generator is not None:
        proposals, _ = model.proposal_generator(images, features, None)
    else:
        proposals = [x["proposals"].to(model.device) for x in inputs]
    targets = [x["instances"].to(model.device) for x in inputs]
    # Also for heads without ignore regions, so that all models are measured on the same RoIs.
    thresh = getattr(heads, "ignore_ioa_thresh", DEFAULT_IOA_THRESH)
    return features, label_rois(
        proposals,
        targets,
        heads.proposal_matcher,
        heads.num_classes,
        append_gt=True,
        ignore_ioa_thresh=thresh,
    )


def mean_roi_loss(model: GeneralizedRCNN, data_loader: Iterable[list[dict]]) -> float:
    """
    Average the loss over all RoIs of annotated images, in evaluation mode: without dropout, on the
    RoIs of inference.

    Args:
        model (GeneralizedRCNN): with :class:`StandardROIHeads` or :class:`Res5ROIHeads` (such as
            OHEM's), and not a cascade.
        data_loader: batches of inputs in detectron2's standard format with "instances", see
            :func:`build_mean_roi_loss_loader`.

    Returns:
        float: mean of classification plus box regression loss over all RoIs of all images and
        processes. NaN if there are none.

    Raises:
        ValueError: if the model has other ROI heads, or a box predictor with a loss of its own.
    """
    heads = model.roi_heads
    predictors = box_predictors(heads)
    if len(predictors) > 1:
        raise ValueError(
            f"The mean loss over all RoIs is for heads with one stage. {type(heads).__name__} has "
            f"{len(predictors)}, each with its own RoIs."
        )
    check_minable(predictors[0])
    total, count = 0.0, 0
    with inference_context(model):
        for inputs in data_loader:
            features, rois = features_and_rois(model, inputs)
            rois = compute_roi_losses(heads, features, rois)
            total += sum((x.loss_cls + x.loss_box_reg).sum() for x in rois).item()
            count += sum(len(x) for x in rois)

    totals, counts = zip(*comm.all_gather((total, count)), strict=True)
    return sum(totals) / sum(counts) if sum(counts) else float("nan")
