"""
How much detections and objects overlap: by masks and by keypoints, as COCO's evaluation does. By
boxes, see detectron2's pairwise_iou.

Shapes: N detections and G objects of an image, K keypoints each.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pycocotools import mask as mask_utils
from torch import Tensor

__all__ = ["keypoint_similarity", "mask_iou"]


def mask_iou(detected: Sequence[Any], objects: Sequence[Any]) -> Tensor:
    """
    Args:
        detected, objects: N and G masks, COCO's compressed RLE.

    Returns:
        Tensor: (N, G) of float32.
    """
    if not detected or not objects:
        return torch.zeros(len(detected), len(objects))
    iou = mask_utils.iou(list(detected), list(objects), [0] * len(objects))  # none is a crowd
    return torch.as_tensor(iou, dtype=torch.float32)


def keypoint_similarity(detected: Tensor, objects: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """
    COCO's object keypoint similarity: the mean of exp(-d^2 / (2 area (2 sigma)^2)) over the
    keypoints that are labeled, d being the distance. It is 1 for keypoints in their place.

    Args:
        detected (Tensor): (N, K, 3), XY and a score.
        objects (Tensor): (G, K, 3), XY and 0 for a keypoint that is not labeled. At least one of
            each object is.
        areas (Tensor): (G,) of the objects, in pixels.
        sigmas (Tensor): (K,), how precisely each keypoint can be labeled.

    Returns:
        Tensor: (N, G) of float32.
    """
    distance = (detected[:, None, :, :2] - objects[None, :, :, :2]).square().sum(dim=3)  # squared
    # The smallest number keeps an object without area from 0 / 0, as in COCO's code.
    scale = 2 * (areas[:, None] + torch.finfo(torch.float64).eps) * (2 * sigmas).square()
    is_labeled = objects[..., 2] > 0  # (G, K)
    return ((-distance / scale).exp() * is_labeled).sum(dim=2) / is_labeled.sum(dim=1)
