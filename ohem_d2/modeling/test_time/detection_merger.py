"""
From all boxes that a detector predicts on an image to its detections.
"""

from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances

from .box_voting import SCORING_METHODS, box_voting

__all__ = ["DetectionMerger"]


class DetectionMerger:
    """
    Chooses the detections of an image among boxes of any origin (RoIs, rounds of regression,
    scales) by NMS for each class, and has the others vote on where they are, if it is told to.
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
            nms_thresh (float): threshold of the NMS.
            topk_per_image (int): keep at most so many of the highest score. Negative for all.
            voting (bool): whether to apply box voting.
            voting_iou_thresh, scoring_method, scoring_method_beta: see :func:`box_voting`.

        Raises:
            ValueError: if a value is out of its range.
        """
        # A key that is None by default is not checked for its type by the config.
        if not (isinstance(nms_thresh, (int, float)) and 0 <= nms_thresh <= 1):
            raise ValueError(
                "MODEL.ROI_HEADS.NMS_THRESH_TEST and TEST.BOX_VOTING.NMS_THRESH must be from 0 to "
                f"1, and one is {nms_thresh!r}."
            )
        if not 0 <= voting_iou_thresh <= 1:
            raise ValueError(
                f"TEST.BOX_VOTING.IOU_THRESH must be from 0 to 1, and is {voting_iou_thresh!r}."
            )
        if scoring_method not in SCORING_METHODS:
            raise ValueError(
                f"TEST.BOX_VOTING.SCORING_METHOD is {scoring_method!r}, and has to be one of: "
                f"{', '.join(SCORING_METHODS)}."
            )
        if not scoring_method_beta > 0:
            raise ValueError(
                "TEST.BOX_VOTING.SCORING_METHOD_BETA must be positive, and is "
                f"{scoring_method_beta!r}."
            )
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
            Instances: the detections, with the same fields, the highest score first.
        """
        boxes, scores = predictions.pred_boxes.tensor, predictions.scores
        classes = predictions.pred_classes
        if not self.voting:
            keep = batched_nms(boxes, scores, classes, self.nms_thresh)
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
