"""
The mean loss over all RoIs (Figure 3 of Shrivastava et al. 2016). Unlike the training loss, it
does not depend on which RoIs are sampled for training.
"""

from collections.abc import Iterable

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

__all__ = ["build_mean_roi_loss_loader", "features_and_rois", "mean_roi_loss"]


def build_mean_roi_loss_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """
    A loader for :func:`mean_roi_loss`: see :func:`build_annotated_loader`.
    """
    return build_annotated_loader(cfg, get_annotated_dicts(cfg, [dataset_name], is_train=False))


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
