from torch import Tensor
from torchvision.ops import batched_nms

__all__ = ["nms_by_class"]


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_thresh: float) -> Tensor:
    """
    torchvision's :func:`batched_nms` for any coordinates. That one moves the boxes of each class by
    the largest coordinate, which does not part the classes if coordinates are negative.

    Args:
        boxes (Tensor): (R, 4) of float32 or float64, XYXY.
        scores, classes (Tensor): (R,).

    Returns:
        Tensor: int64 indices of the boxes that are kept, by decreasing score.
    """
    if len(boxes):
        boxes = boxes - boxes.min().clamp(max=0)
    return batched_nms(boxes, scores, classes, iou_thresh)
