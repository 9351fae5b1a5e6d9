"""
What is hard for a trained model: RoIs with a large loss, and what is wrong with each.

Shape shorthand in this module:

    R: number of RoIs of the image
    K: number of foreground classes
"""

import math
from typing import Any, NamedTuple, Optional

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ..modeling.roi_heads import nms_by_loss, roi_losses
from ..modeling.roi_heads.box_branch import box_predictors, forward_rois
from ..modeling.roi_heads.roi_loss import objectness_losses
from ..utils import InputError
from .error_breakdown import BG_THRESH, FG_THRESH
from .mean_roi_loss import features_and_rois

__all__ = ["KINDS", "HardExample", "find_hard_examples"]

MISSED, WRONG_CLASS, POOR_LOCALIZATION, UNANNOTATED = KINDS = (
    "missed object",
    "wrong class",
    "poor localization",
    "nothing annotated",
)


class HardExample(NamedTuple):
    """
    A RoI and what is wrong with it. Boxes are XYXY in pixels of the image file.
    """

    kind: str  # one of KINDS
    file_name: str  # of the image
    roi: list[float]
    gt_class: Optional[int]  # of the object that it is about. None if there is none
    gt_box: Optional[list[float]]
    pred_class: int  # the likeliest foreground class
    pred_box: list[float]  # for this class
    score: float  # probability of this class
    loss: float  # sum of the next three
    loss_objectness: float  # see objectness_losses()
    loss_class: float  # the rest of the classification loss
    loss_box_reg: float

    @property
    def iou(self) -> Optional[float]:
        """
        Optional[float]: IoU of the predicted with the annotated box. None without an object.
        """
        if self.gt_box is None:
            return None
        return pairwise_iou(Boxes([self.gt_box]), Boxes([self.pred_box])).item()


@torch.no_grad()
def find_hard_examples(
    model: GeneralizedRCNN,
    inputs: dict[str, Any],
    nms_thresh: float = 0.3,
    min_score: float = 0.05,
) -> list[HardExample]:
    """
    Rank all RoIs of one image by their training loss, and say what is wrong with the hard ones.

    Each object is represented by the RoI on it with the highest score. (The hardest RoI would not
    do: every object has RoIs that barely overlap it and are hard.) What is wrong is the largest
    part of that RoI's loss: object or background ("missed object"), which class ("wrong class"), or
    where ("poor localization"). A RoI for which the model gets this part right (foreground is
    likelier than background, or the class is the likeliest) is not shown.

    A background RoI counts if the model finds something there, unless the predicted box is that of
    an annotated object (IoU >= 0.5). If it covers part of an object (IoU >= 0.1), it is a "poor
    localization" of it, otherwise there is "nothing annotated".

    NMS by loss then removes RoIs that overlap a harder one, as in training.

    Args:
        model (GeneralizedRCNN): in evaluation mode, with ROI heads that :func:`box_predictors`
            supports. For a cascade, the losses are those of the first stage.
        inputs (dict): one image in detectron2's standard format, with "instances".
        nms_thresh (float): see :func:`nms_by_loss`. Lower than in training, so that a person sees
            each thing once.
        min_score (float): the lowest score that counts on the background.

    Returns:
        list[HardExample]: by decreasing loss.

    Raises:
        InputError: if a loss is not finite.
    """
    features, (rois,) = features_and_rois(model, [inputs])
    if len(rois) == 0:
        return []
    objects = inputs["instances"].to(model.device)
    _predict(model.roi_heads, features, rois)
    if not rois.losses.isfinite().all():
        raise InputError(
            f"Some losses of RoIs in {inputs['file_name']} are not finite. Did the training that "
            "made the weights diverge?"
        )
    _judge(rois, objects, model.roi_heads.num_classes, min_score)
    rois = rois[rois.kinds >= 0]
    rois = rois[
        nms_by_loss(rois.proposal_boxes.tensor, rois.losses.sum(dim=1), rois.gt_classes, nms_thresh)
    ]
    return _to_examples(rois, objects, inputs)


def _predict(heads: ROIHeads, features: dict[str, Tensor], rois: Instances) -> None:
    """
    Add these fields to labeled RoIs:

    - losses: (R, 3), the parts of the loss, in the order of :class:`HardExample`.
    - pred_classes: the likeliest foreground class.
    - scores: its probability.
    - pred_boxes: the box predicted for it.
    - is_missed: for foreground, whether background is likelier than foreground.
    """
    predictor = box_predictors(heads)[0]
    predictions = forward_rois(heads, features, [rois])
    losses = roi_losses(predictor, predictions, [rois])
    objectness = objectness_losses(predictor, predictions[0], rois.gt_classes)
    # Rounding may make it slightly negative.
    of_class = (losses["loss_cls"] - objectness).clamp(min=0)
    rois.losses = torch.stack([objectness, of_class, losses["loss_box_reg"]], dim=1)
    # log(2) is the loss where both are equally likely.
    rois.is_missed = objectness > predictor.loss_weight.get("loss_cls", 1.0) * math.log(2)

    (probs,) = predictor.predict_probs(predictions, [rois])
    rois.scores, rois.pred_classes = probs[:, : heads.num_classes].max(dim=1)
    (boxes,) = predictor.predict_boxes(predictions, [rois])
    boxes = boxes.view(len(rois), -1, 4)
    # Class-agnostic regression has one box for all classes.
    box_inds = rois.pred_classes.clamp(max=boxes.shape[1] - 1)
    rois.pred_boxes = Boxes(boxes[torch.arange(len(rois), device=boxes.device), box_inds])
    rois.pred_boxes.clip(rois.image_size)


def _judge(rois: Instances, objects: Instances, num_classes: int, min_score: float) -> None:
    """
    Add the field "kinds": index in KINDS of what is wrong, -1 for RoIs that are not shown. Set
    "gt_inds" to the index of the object that a RoI is about, -1 if there is none.
    """
    is_fg = rois.gt_classes < num_classes
    iou = torch.zeros_like(rois.scores)
    if len(objects):
        iou, nearest = pairwise_iou(objects.gt_boxes, rois.pred_boxes).max(dim=0)
        rois.gt_inds = torch.where(is_fg, rois.gt_inds, nearest)

    unrelated = iou < BG_THRESH
    on_background = torch.where(unrelated, KINDS.index(UNANNOTATED), KINDS.index(POOR_LOCALIZATION))
    on_background[(iou >= FG_THRESH) | (rois.scores < min_score)] = -1
    # In the order of KINDS, like the parts of the loss.
    wrong_class = rois.pred_classes != rois.gt_classes
    mistakes = torch.stack([rois.is_missed, wrong_class, torch.ones_like(is_fg)], dim=1)
    largest = rois.losses.argmax(dim=1)
    is_shown = mistakes.gather(1, largest[:, None])[:, 0]
    is_shown &= _surest_of_each_object(rois, is_fg, len(objects))
    on_object = torch.where(is_shown, largest, -1)
    rois.gt_inds = torch.where(~is_fg & unrelated, -1, rois.gt_inds)
    rois.kinds = torch.where(is_fg, on_object, on_background)


def _surest_of_each_object(rois: Instances, is_fg: Tensor, num_objects: int) -> Tensor:
    """
    Returns:
        Tensor: (R,) bool, true for one RoI of each object that has any: the one with the highest
        score, the first among equals.
    """
    fg_inds = torch.nonzero(is_fg)[:, 0]
    order = fg_inds[torch.sort(rois.scores[fg_inds], descending=True, stable=True).indices]
    place = torch.arange(len(order), device=order.device)
    # The place of each object's first RoI in this order.
    first = torch.full((num_objects,), len(order), device=order.device)
    first = first.scatter_reduce(0, rois.gt_inds[order], place, "amin")
    is_surest = torch.zeros_like(is_fg)
    is_surest[order[first[first < len(order)]]] = True
    return is_surest


def _to_examples(rois: Instances, objects: Instances, inputs: dict[str, Any]) -> list[HardExample]:
    height, width = rois.image_size

    def to_list(boxes: Boxes) -> list[list[float]]:
        boxes = boxes.clone()
        boxes.scale(inputs["width"] / width, inputs["height"] / height)
        return boxes.tensor.tolist()

    gt_boxes, gt_classes = to_list(objects.gt_boxes), objects.gt_classes.tolist()
    return [
        HardExample(
            KINDS[kind],
            inputs["file_name"],
            roi,
            gt_classes[i] if i >= 0 else None,
            gt_boxes[i] if i >= 0 else None,
            pred_class,
            pred_box,
            score,
            sum(losses),
            *losses,
        )
        for kind, roi, i, pred_class, pred_box, score, losses in zip(
            rois.kinds.tolist(),
            to_list(rois.proposal_boxes),
            rois.gt_inds.tolist(),
            rois.pred_classes.tolist(),
            to_list(rois.pred_boxes),
            rois.scores.tolist(),
            rois.losses.tolist(),
            strict=True,
        )
    ]
