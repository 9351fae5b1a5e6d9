"""
The branches of detectron2's ROI heads, in one interface for StandardROIHeads, Res5ROIHeads and
CascadeROIHeads. All private methods of detectron2's that mining calls are called here.
"""

from collections.abc import Iterator

from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Instances
from torch import Tensor, nn

__all__ = [
    "box_predictors",
    "box_head",
    "forward_rois",
    "mask_and_keypoint_losses",
    "predict_rois",
    "proposals_from_predictions",
    "split_rois",
]


def box_predictors(roi_heads: ROIHeads) -> list[FastRCNNOutputLayers]:
    """
    Returns:
        list[FastRCNNOutputLayers]: the box predictor of each stage. Only a cascade has more than
        one.

    Raises:
        ValueError: if the heads are none of the three, or forward RoIs in a way that is unknown
            here, see :func:`forward_rois`.
    """
    _check_box_branch(type(roi_heads))
    if isinstance(roi_heads, CascadeROIHeads):
        return list(roi_heads.box_predictor)
    if isinstance(roi_heads, (StandardROIHeads, Res5ROIHeads)):
        return [roi_heads.box_predictor]
    raise ValueError(
        f"{type(roi_heads).__name__} is not a StandardROIHeads, Res5ROIHeads or CascadeROIHeads: "
        "how it predicts on a RoI, and so the loss of a RoI, is unknown."
    )


def _check_box_branch(heads: type[ROIHeads]) -> None:
    known = (None, StandardROIHeads._forward_box, CascadeROIHeads._forward_box)
    forward_box = getattr(heads, "_forward_box", None)
    if forward_box not in known and not hasattr(heads, "forward_rois"):
        raise ValueError(
            f"{heads.__name__} has a _forward_box of its own: what it predicts on a RoI, and so "
            "the loss of a RoI, is unknown. Give it a method forward_rois(features, proposals, "
            "stage=0) that returns what its box predictor returns, and have _forward_box call it."
        )


def box_head(roi_heads: ROIHeads, stage: int = 0) -> nn.Module:
    """
    Returns:
        nn.Module: all layers of a stage between the pooler and the predictor.
    """
    if isinstance(roi_heads, Res5ROIHeads):
        return roi_heads.res5
    if isinstance(roi_heads, CascadeROIHeads):
        return roi_heads.box_head[stage]
    return roi_heads.box_head


def forward_rois(
    roi_heads: ROIHeads, features: dict[str, Tensor], proposals: list[Instances], stage: int = 0
) -> tuple[Tensor, Tensor]:
    """
    Args:
        roi_heads (ROIHeads): one of the three. If they have a method of this name, with the other
            arguments, it is called instead: heads that forward RoIs in a way of their own must
            have it.
        features (dict[str, Tensor]): same as in :meth:`ROIHeads.forward`.
        proposals (list[Instances]): for each image, RoIs with the field "proposal_boxes". R in all.
        stage (int): stage of a cascade, from 0.

    Returns:
        class scores (R, K + 1) and box deltas (R, 4K), or (R, 4) for class-agnostic regression:
        see :meth:`FastRCNNOutputLayers.forward`.
    """
    if hasattr(roi_heads, "forward_rois"):
        return roi_heads.forward_rois(features, proposals, stage)
    boxes = [x.proposal_boxes for x in proposals]
    if isinstance(roi_heads, Res5ROIHeads):
        feature_list = [features[f] for f in roi_heads.in_features]
        box_features = roi_heads._shared_roi_transform(feature_list, boxes)
        return roi_heads.box_predictor(box_features.mean(dim=[2, 3]))

    feature_list = [features[f] for f in roi_heads.box_in_features]
    if isinstance(roi_heads, CascadeROIHeads):
        return roi_heads._run_stage(feature_list, proposals, stage)
    return roi_heads.box_predictor(roi_heads.box_head(roi_heads.box_pooler(feature_list, boxes)))


def mask_and_keypoint_losses(
    roi_heads: StandardROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> dict[str, Tensor]:
    """
    Args:
        features: see :meth:`ROIHeads.forward`.
        proposals (list[Instances]): for each image, the RoIs to train on, with all targets.

    Returns:
        dict[str, Tensor]: losses of the mask and keypoint heads. Empty if there are none.
    """
    losses = roi_heads._forward_mask(features, proposals)
    return {**losses, **roi_heads._forward_keypoint(features, proposals)}


def proposals_from_predictions(
    roi_heads: CascadeROIHeads, rois: list[Instances]
) -> list[Instances]:
    """
    Args:
        rois (list[Instances]): for each image, the RoIs of a stage with the field "pred_boxes".

    Returns:
        list[Instances]: for each image, the proposals of the next stage: the predicted boxes,
        clipped to the image, and in training without empty ones.
    """
    return roi_heads._create_proposals_from_boxes(
        [x.pred_boxes.tensor for x in rois], [x.image_size for x in rois]
    )


def predict_rois(
    roi_heads: ROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[list[Tensor], list[Tensor]]:
    """
    What the heads predict in inference, before NMS. A cascade predicts the boxes of its last stage,
    and the mean of the scores of all stages.

    Args:
        roi_heads, features, proposals: see :func:`forward_rois`.

    Returns:
        for each image, boxes (Ri, 4K), or (Ri, 4) for class-agnostic regression, and
        probabilities (Ri, K + 1): the arguments of :func:`fast_rcnn_inference`.
    """
    image_sizes = [x.image_size for x in proposals]
    predictors = box_predictors(roi_heads)
    scores_per_stage = []
    for stage, predictor in enumerate(predictors):
        predictions = forward_rois(roi_heads, features, proposals, stage)
        boxes = predictor.predict_boxes(predictions, proposals)
        scores_per_stage.append(predictor.predict_probs(predictions, proposals))
        if stage + 1 < len(predictors):
            proposals = roi_heads._create_proposals_from_boxes(boxes, image_sizes)
    # Written as detectron2 does: dividing by the number would change the last digit.
    scores = [sum(x) * (1.0 / len(x)) for x in zip(*scores_per_stage, strict=True)]
    return list(boxes), scores


def split_rois(proposals: list[Instances], batch_size: int) -> Iterator[list[Instances]]:
    """
    Split the RoIs of all images into consecutive batches, each again a list over all images. No
    RoIs give one empty batch.
    """
    counts = [len(p) for p in proposals]
    first = [sum(counts[:i]) for i in range(len(counts))]  # where each image's RoIs begin
    for start in range(0, max(sum(counts), 1), batch_size):
        yield [
            p[max(start - f, 0) : max(start + batch_size - f, 0)]
            for p, f in zip(proposals, first, strict=True)
        ]
