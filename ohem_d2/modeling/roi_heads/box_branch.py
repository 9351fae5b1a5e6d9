"""
The box branch of detectron2's ROI heads, as one function for all of them: from RoIs to the
predictions on them.
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
    "predict_rois",
    "split_rois",
]


def box_predictors(roi_heads: ROIHeads) -> list[FastRCNNOutputLayers]:
    """
    Returns:
        list[FastRCNNOutputLayers]: the box predictor of each stage. There is one stage, but in a
        cascade.

    Raises:
        ValueError: if the box branch of these heads is not known.
    """
    if isinstance(roi_heads, CascadeROIHeads):
        return list(roi_heads.box_predictor)
    if isinstance(roi_heads, (StandardROIHeads, Res5ROIHeads)):
        return [roi_heads.box_predictor]
    raise ValueError(
        f"{type(roi_heads).__name__} is no StandardROIHeads, Res5ROIHeads or CascadeROIHeads: how "
        "it predicts on a RoI is not known, and so neither is the RoI's loss."
    )


def box_head(roi_heads: ROIHeads, stage: int = 0) -> nn.Module:
    """
    Returns:
        nn.Module: all layers of a stage between pooler and predictor.
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
        roi_heads (ROIHeads): that :func:`box_predictors` knows.
        features (dict[str, Tensor]): same as in :meth:`ROIHeads.forward`.
        proposals (list[Instances]): R RoIs, a list over images, with the field "proposal_boxes".
        stage (int): of a cascade, from 0.

    Returns:
        class scores (R, K + 1) and box deltas (R, 4K), or (R, 4) for class-agnostic regression:
        see :meth:`FastRCNNOutputLayers.forward`.
    """
    boxes = [x.proposal_boxes for x in proposals]
    if isinstance(roi_heads, Res5ROIHeads):
        feature_list = [features[f] for f in roi_heads.in_features]
        box_features = roi_heads._shared_roi_transform(feature_list, boxes)
        return roi_heads.box_predictor(box_features.mean(dim=[2, 3]))

    feature_list = [features[f] for f in roi_heads.box_in_features]
    if isinstance(roi_heads, CascadeROIHeads):
        return roi_heads._run_stage(feature_list, proposals, stage)
    return roi_heads.box_predictor(roi_heads.box_head(roi_heads.box_pooler(feature_list, boxes)))


def predict_rois(
    roi_heads: ROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[list[Tensor], list[Tensor]]:
    """
    What the heads predict in inference, before they choose among it. Of a cascade, the boxes are
    those of the last stage, and the scores the mean of all stages.

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
    # As detectron2 writes the mean: divided by the number, its last digit would be another.
    scores = [sum(x) * (1.0 / len(x)) for x in zip(*scores_per_stage, strict=True)]
    return list(boxes), scores


def split_rois(proposals: list[Instances], batch_size: int) -> Iterator[list[Instances]]:
    """
    Cut the RoIs of all images into consecutive batches, each again a list over all images. If there
    are no RoIs, there is one batch of none.
    """
    counts = [len(p) for p in proposals]
    first = [sum(counts[:i]) for i in range(len(counts))]  # where each image's RoIs begin
    for start in range(0, max(sum(counts), 1), batch_size):
        yield [
            p[max(start - f, 0) : max(start + batch_size - f, 0)]
            for p, f in zip(proposals, first, strict=True)
        ]
