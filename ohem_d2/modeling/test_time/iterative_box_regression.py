"""
Iterative bounding-box regression (Gidaris & Komodakis 2015, arXiv:1505.01749), as Shrivastava et
al. 2016 use it.
"""

import copy
from collections.abc import Callable
from typing import Any, Optional

from detectron2.config import CfgNode, configurable
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..roi_heads.box_branch import box_predictors, predict_rois, split_rois

__all__ = ["IterativeROIHeads", "with_iterative_roi_heads"]


class IterativeROIHeads(nn.Module):
    """
    Inference with other ROI heads in rounds: they score and relocalize the proposals, then the
    boxes with high scores again, each for its own class only, and so on. The detections are
    chosen among the boxes of all rounds. Mask and keypoint heads run on the detections.

    One round with NMS as `merge` is plain inference with those heads.
    """

    @configurable
    def __init__(
        self,
        *,
        roi_heads: ROIHeads,
        num_rounds: int = 1,
        score_thresh: float = 0.2,
        merge: Optional[Callable[[Instances], Instances]] = None,
    ):
        """
        Args:
            roi_heads (ROIHeads): :class:`StandardROIHeads`, :class:`Res5ROIHeads` or
                :class:`CascadeROIHeads`, whose stages all run in each round. They are shared, not
                copied.
            num_rounds (int): how many times boxes are scored and relocalized, at least 1.
            score_thresh (float): boxes with higher scores enter the next round.
            merge (callable): chooses the detections among the boxes of an image, see
                :class:`DetectionMerger`. None returns all boxes, without masks and keypoints.

        Raises:
            ValueError: if `roi_heads` is of another class.
        """
        super().__init__()
        predictor = box_predictors(roi_heads)[-1]
        self.roi_heads = roi_heads
        self.num_rounds = num_rounds
        self.score_thresh = score_thresh
        self.merge = merge
        self.test_score_thresh = predictor.test_score_thresh

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        roi_heads: ROIHeads,
        merge: Optional[Callable[[Instances], Instances]] = None,
    ):
        iterative = cfg.TEST.ITERATIVE_BBOX
        return {
            "roi_heads": roi_heads,
            "num_rounds": iterative.NUM_ROUNDS if iterative.ENABLED else 1,
            "score_thresh": iterative.SCORE_THRESH,
            "merge": merge,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: Any = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        See :meth:`ROIHeads.forward`, in inference.
        """
        predictions = self.predict(features, proposals)
        if self.merge is None:
            return predictions, {}
        detections = [self.merge(x) for x in predictions]
        return self.forward_with_given_boxes(features, detections), {}

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """
        See :meth:`StandardROIHeads.forward_with_given_boxes`.
        """
        return self.roi_heads.forward_with_given_boxes(features, instances)

    def predict(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """
        Args:
            features, proposals: see :meth:`ROIHeads.forward`.

        Returns:
            list[Instances]: the boxes of all rounds for each image, with the fields "pred_boxes",
            "scores" and "pred_classes".
        """
        # Later rounds need no more memory than the first.
        batch_size = max(sum(len(x) for x in proposals), 1)
        rounds = [self._predict_once(features, proposals)]
        for _ in range(self.num_rounds - 1):
            # With indices a GPU is waited for once, not for each field.
            high = [x[(x.scores > self.score_thresh).nonzero()[:, 0]] for x in rounds[-1]]
            proposals = [
                Instances(x.image_size, proposal_boxes=x.pred_boxes, classes=x.pred_classes)
                for x in high
            ]
            batches = [self._predict_once(features, x) for x in split_rois(proposals, batch_size)]
            rounds.append([Instances.cat(list(x)) for x in zip(*batches, strict=True)])
        return [Instances.cat(list(x)) for x in zip(*rounds, strict=True)]

    def _predict_once(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        boxes, scores = predict_rois(self.roi_heads, features, proposals)
        return [
            _boxes_above(*x, self.test_score_thresh)
            for x in zip(boxes, scores, proposals, strict=True)
        ]


def with_iterative_roi_heads(
    cfg: CfgNode,
    model: GeneralizedRCNN,
    merge: Optional[Callable[[Instances], Instances]] = None,
) -> GeneralizedRCNN:
    """
    Args:
        cfg (CfgNode): see :func:`add_ohem_config`.
        model (GeneralizedRCNN): may be wrapped in DistributedDataParallel. It is not changed.
        merge (callable): see :class:`IterativeROIHeads`.

    Returns:
        GeneralizedRCNN: a model of the same class that shares everything with `model`, with its
        ROI heads wrapped in :class:`IterativeROIHeads`.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    # A shallow copy: the model keeps its heads and the names of its weights.
    ret = copy.copy(model)
    heads = IterativeROIHeads(cfg, model.roi_heads, merge)
    ret._modules = {**model._modules, "roi_heads": heads}
    return ret


def _boxes_above(
    boxes: Tensor, scores: Tensor, proposals: Instances, score_thresh: float
) -> Instances:
    """
    :func:`fast_rcnn_inference_single_image` of detectron2 without its NMS.

    Args:
        boxes, scores (Tensor): of one image, from :func:`predict_rois`.
        proposals (Instances): the RoIs. One with "classes" predicts its own class only.
        score_thresh (float): return boxes with higher scores only.

    Returns:
        Instances: with the fields "pred_boxes", "scores" and "pred_classes".
    """
    is_valid = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    scores = scores[:, :-1]  # R x K
    is_predicted = is_valid[:, None] & (scores > score_thresh)
    if proposals.has("classes"):
        is_predicted &= F.one_hot(proposals.classes, scores.shape[1]).bool()
    rois, classes = is_predicted.nonzero(as_tuple=True)

    boxes = boxes.unflatten(1, (boxes.shape[1] // 4, 4))  # R x K x 4, or R x 1 x 4
    pred_boxes = Boxes(boxes[rois, classes.clamp(max=boxes.shape[1] - 1)])
    pred_boxes.clip(proposals.image_size)
    return Instances(
        proposals.image_size,
        pred_boxes=pred_boxes,
        scores=scores[rois, classes],
        pred_classes=classes,
    )
