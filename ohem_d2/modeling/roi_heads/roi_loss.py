"""
The loss of each RoI, with the arithmetic of detectron2's training loss.

Shape shorthand in this module:

    R: number of RoIs, over all images of the minibatch
    K: number of foreground classes
"""

from typing import Optional

import torch
from detectron2 import layers
from detectron2.layers import cat, nonzero_tuple
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

__all__ = ["check_minable", "fed_loss_class_mask", "objectness_losses", "roi_losses"]

# Losses on boxes (rather than on deltas) that FastRCNNOutputLayers knows. detectron2 0.5 has no
# DIoU and CIoU.
_BOX_LOSSES = {"giou": giou_loss}
for _name in ("diou", "ciou"):
    if hasattr(layers, f"{_name}_loss"):
        _BOX_LOSSES[_name] = getattr(layers, f"{_name}_loss")

# The methods of FastRCNNOutputLayers whose arithmetic roi_losses() repeats for each RoI.
_LOSS_METHODS = ("losses", "box_reg_loss", "sigmoid_cross_entropy_loss", "get_fed_loss_classes")


def check_minable(box_predictor: FastRCNNOutputLayers) -> None:
    """
    Check that :func:`roi_losses` computes what ``box_predictor`` is trained with.

    Raises:
        ValueError: if it does not: the predictor is not a :class:`FastRCNNOutputLayers`, has its
            own loss, or regresses rotated boxes.
    """
    name = type(box_predictor).__name__
    if not isinstance(box_predictor, FastRCNNOutputLayers):
        raise ValueError(
            f"OHEM ranks RoIs by the loss of a FastRCNNOutputLayers, and {name} is not one. Use "
            "other ROI heads (MODEL.ROI_HEADS.NAME)."
        )
    for method in _LOSS_METHODS:
        if getattr(type(box_predictor), method, None) is not getattr(
            FastRCNNOutputLayers, method, None
        ):
            raise ValueError(
                f"OHEM ranks RoIs by the loss of FastRCNNOutputLayers, and {name} overrides "
                f"{method}(): what is mined would not be what is trained. Use other ROI heads "
                "(MODEL.ROI_HEADS.NAME)."
            )
    if len(box_predictor.box2box_transform.weights) != 4:
        raise ValueError(
            f"OHEM mines axis-aligned boxes, and {name} regresses rotated ones "
            f"(MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS {box_predictor.box2box_transform.weights})."
        )
    loss_type = box_predictor.box_reg_loss_type
    if loss_type != "smooth_l1" and loss_type not in _BOX_LOSSES:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is '{loss_type}', which this detectron2 "
            f"does not have. It must be one of: smooth_l1, {', '.join(_BOX_LOSSES)}."
        )


def fed_loss_class_mask(
    box_predictor: FastRCNNOutputLayers, gt_classes: Tensor
) -> Optional[Tensor]:
    """
    Draw the classes that count in the federated loss of one minibatch.

    Args:
        box_predictor (FastRCNNOutputLayers):
        gt_classes (Tensor): (R,) long tensor, the labels of the whole minibatch: every class in it
            counts.

    Returns:
        Tensor or None: float tensor of shape (K,), 1 for the classes that count and 0 for others.
        None if the predictor has no federated loss.
    """
    if not getattr(box_predictor, "use_fed_loss", False):
        return None
    num_classes = box_predictor.num_classes
    classes = box_predictor.get_fed_loss_classes(
        gt_classes,
        num_fed_loss_classes=box_predictor.fed_loss_num_classes,
        num_classes=num_classes,
        weight=box_predictor.fed_loss_cls_weights,
    )
    mask = torch.zeros(num_classes + 1, device=gt_classes.device)
    mask[classes] = 1
    return mask[:num_classes]


def roi_losses(
    box_predictor: FastRCNNOutputLayers,
    predictions: tuple[Tensor, Tensor],
    proposals: list[Instances],
    class_mask: Optional[Tensor] = None,
) -> dict[str, Tensor]:
    """
    :meth:`FastRCNNOutputLayers.losses` for each RoI: the mean of each tensor returned here is the
    loss of the same name there. Computed in float32 regardless of the precision of the
    predictions. Logs nothing.

    Args:
        box_predictor (FastRCNNOutputLayers): defines both losses and their weights.
        predictions: the class scores (R, K + 1) and box deltas (R, 4K), or (R, 4) for
            class-agnostic regression, that :meth:`FastRCNNOutputLayers.forward` returns.
        proposals (list[Instances]): for each image, the RoIs that were predicted on, R in all,
            with the fields "proposal_boxes" and "gt_classes", and "gt_boxes" where an image has
            objects. No RoI may have the label -1 (ignored), which has no loss.
        class_mask (Tensor): from :func:`fed_loss_class_mask`, only for a federated loss.

    Returns:
        dict[str, Tensor]: "loss_cls" and "loss_box_reg", each float32 of shape (R,), weighted by
        the predictor's `loss_weight`.
    """
    scores, proposal_deltas = (x.float() for x in predictions)
    if len(scores) == 0:
        # Empty sums, so that the losses are connected to the predictions.
        return {"loss_cls": scores.sum(dim=1), "loss_box_reg": proposal_deltas.sum(dim=1)}

    gt_classes = cat([p.gt_classes for p in proposals])
    proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
    # An image without objects has no "gt_boxes". All of its RoIs are background, which has no box
    # regression loss, so any box will do.
    gt_boxes = cat(
        [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
    )
    losses = {
        "loss_cls": _classification_losses(box_predictor, scores, gt_classes, class_mask),
        "loss_box_reg": _box_reg_losses(
            box_predictor, proposal_boxes, gt_boxes, proposal_deltas, gt_classes
        ),
    }
    return {k: v * box_predictor.loss_weight.get(k, 1.0) for k, v in losses.items()}


def objectness_losses(
    box_predictor: FastRCNNOutputLayers, scores: Tensor, gt_classes: Tensor
) -> Tensor:
    """
    The part of each RoI's classification loss that tells object from background. The rest tells
    classes apart, and is 0 on background.

    - Softmax loss: -log p(background), or -log(1 - p(background)) on foreground. The rest is
      -log p(class | object).
    - Sigmoid loss: on foreground, the term of the RoI's class. The rest is the other terms.

    Args:
        box_predictor (FastRCNNOutputLayers):
        scores (Tensor): (R, K + 1), see :func:`roi_losses`.
        gt_classes (Tensor): (R,) labels.

    Returns:
        Tensor: float32 of shape (R,), weighted like "loss_cls", and at most as large unless that
        is a federated loss.
    """
    scores = scores.float()
    is_bg = gt_classes == scores.shape[1] - 1
    if getattr(box_predictor, "use_sigmoid_ce", False):
        losses = torch.where(
            is_bg,
            F.softplus(scores[:, :-1]).sum(dim=1),
            F.softplus(-scores.gather(1, gt_classes[:, None])[:, 0]),
        )
    else:
        objectness = scores[:, :-1].logsumexp(dim=1) - scores[:, -1]
        losses = F.softplus(torch.where(is_bg, objectness, -objectness))
    return losses * box_predictor.loss_weight.get("loss_cls", 1.0)


def _classification_losses(
    box_predictor: FastRCNNOutputLayers,
    scores: Tensor,
    gt_classes: Tensor,
    class_mask: Optional[Tensor],
) -> Tensor:
    if not getattr(box_predictor, "use_sigmoid_ce", False):
        # Not detectron2.layers.cross_entropy, which drops `reduction` in detectron2 0.5.
        return F.cross_entropy(scores, gt_classes, reduction="none")

    # Background is the absence of all classes, so it has no column in the target.
    num_classes = scores.shape[1] - 1
    target = F.one_hot(gt_classes, num_classes + 1)[:, :-1].to(scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores[:, :-1], target, reduction="none")
    if class_mask is not None:
        losses = losses * class_mask
    return losses.sum(dim=1)


def _box_reg_losses(
    box_predictor: FastRCNNOutputLayers,
    proposal_boxes: Tensor,
    gt_boxes: Tensor,
    pred_deltas: Tensor,
    gt_classes: Tensor,
) -> Tensor:
    num_classes = box_predictor.num_classes
    fg_inds = nonzero_tuple((gt_classes >= 0) & (gt_classes < num_classes))[0]
    if pred_deltas.shape[1] == 4:  # class-agnostic regression
        fg_pred_deltas = pred_deltas[fg_inds]
    else:
        fg_pred_deltas = pred_deltas.view(-1, num_classes, 4)[fg_inds, gt_classes[fg_inds]]
    fg_proposal_boxes, fg_gt_boxes = proposal_boxes[fg_inds], gt_boxes[fg_inds]

    transform = box_predictor.box2box_transform
    if box_predictor.box_reg_loss_type == "smooth_l1":
        fg_losses = smooth_l1_loss(
            fg_pred_deltas,
            transform.get_deltas(fg_proposal_boxes, fg_gt_boxes),
            box_predictor.smooth_l1_beta,
            reduction="none",
        ).sum(dim=1)
    else:
        fg_losses = _BOX_LOSSES[box_predictor.box_reg_loss_type](
            transform.apply_deltas(fg_pred_deltas, fg_proposal_boxes),
            fg_gt_boxes,
            reduction="none",
        )
    losses = pred_deltas.new_zeros(len(gt_classes))
    losses[fg_inds] = fg_losses
    return losses
