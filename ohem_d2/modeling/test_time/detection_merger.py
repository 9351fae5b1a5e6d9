"""
Choose the detections of an image among all boxes that a detector predicts.
"""

from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances

from ...structures.nms_by_class import nms_by_class
from .box_voting import box_voting

__all__ = ["DetectionMerger"]


class DetectionMerger:
    """
    NMS for each class over the boxes of an image from all RoIs, rounds of regression and scales,
    optionally followed by box voting.
    """

    @configurable
    def __init__(
        self,
        *,
        nms_thresh: float,
        topk_per_image: int,
        voting: bool = False,
        voting_iou_thresh: float = 0.5,
        scoring_method: str = "ID",
        scoring_method_beta: float = 1.0,
    ):
        """
        Args:
            nms_thresh (float): NMS threshold.
            topk_per_image (int): keep at most this many, those with the highest scores. Negative:
                all.
            voting (bool): whether to apply box voting.
            voting_iou_thresh, scoring_method, scoring_method_beta: see :func:`box_voting`.
        """
        self.nms_thresh = nms_thresh
        self.topk_per_image = topk_per_image
        self.voting = voting
        self.voting_iou_thresh = voting_iou_thresh
        self.scoring_method = scoring_method
        self.scoring_method_beta = scoring_method_beta

    @classmethod
    def from_config(cls, cfg: CfgNode):
        voting = cfg.TEST.BOX_VOTING
        nms_thresh = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
        if voting.ENABLED and voting.NMS_THRESH is not None:
            nms_thresh = voting.NMS_THRESH
        return {
            "nms_thresh": nms_thresh,
            "topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "voting": voting.ENABLED,
            "voting_iou_thresh": voting.IOU_THRESH,
            "scoring_method": voting.SCORING_METHOD,
            "scoring_method_beta": voting.SCORING_METHOD_BETA,
        }

    def __call__(self, predictions: Instances) -> Instances:
        """
        Args:
            predictions (Instances): R boxes of an image, with the fields "pred_boxes", "scores"
                and "pred_classes".

        Returns:
            Instances: the detections, with the same fields, by decreasing score.
        """
        boxes, scores = predictions.pred_boxes.tensor, predictions.scores
        classes = predictions.pred_classes
        if not self.voting:
            keep = nms_by_class(boxes.float(), scores, classes, self.nms_thresh)
            if self.topk_per_image >= 0:
                keep = keep[: self.topk_per_image]
            return predictions[keep]

        boxes, scores, keep = box_voting(
            boxes,
            scores,
            classes,
            self.nms_thresh,
            self.voting_iou_thresh,
            self.scoring_method,
            self.scoring_method_beta,
            self.topk_per_image,
        )
        detections = predictions[keep]
        detections.pred_boxes, detections.scores = Boxes(boxes), scores
        return detections
