"""
Which RoIs of one image are hard, given their losses. Pure functions on tensors.

Shape shorthand in this module:

    R: number of RoIs of the image
    S: number of them that survive NMS
    B: number of them to keep
"""

from typing import Optional

import torch
from torch import Tensor
from torchvision.ops import nms

from ...structures.nms_by_class import nms_by_class

__all__ = ["nms_by_loss", "take_hardest"]


def nms_by_loss(
    boxes: Tensor,
    losses: Tensor,
    gt_classes: Tensor,
    nms_thresh: float = 0.7,
    nms_per_class: bool = False,
) -> Tensor:
    """
    Sort RoIs by loss, and remove those that overlap one with a larger loss: RoIs in the same place
    are hard for the same reason, which would count several times (Shrivastava et al. 2016,
    arXiv:1604.03540, section 4).

    RoIs with equal losses are sorted by index. A loss that is not finite counts as the largest, so
    that it surfaces in training instead of vanishing here.

    Args:
        boxes (Tensor): (R, 4) boxes (x1, y1, x2, y2) in pixels.
        losses (Tensor): (R,) loss of each RoI.
        gt_classes (Tensor): (R,) label of each RoI, used if `nms_per_class`.
        nms_thresh (float): remove a RoI if its IoU with a harder one is larger than this. Nothing
            is removed at 1 or more.
        nms_per_class (bool): whether only RoIs of the same label (background included) compete.

    Returns:
        Tensor: (S,) long tensor of the indices of the survivors, the hardest first.
    """
    losses = torch.where(losses.isfinite(), losses, torch.inf)
    order = torch.sort(losses, descending=True, stable=True).indices
    if nms_thresh >= 1:
        return order

    # In float64, also because nms_by_class shifts the boxes of each class by more than the image's
    # size: with many classes, float32 would have no digits left for small boxes.
    boxes = boxes[order].double()
    # NMS goes by rank instead of loss: losses may be equal or infinite.
    scores = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    if nms_per_class:
        keep = nms_by_class(boxes, scores, gt_classes[order], nms_thresh)
    else:
        keep = nms(boxes, scores, nms_thresh)
    return order[keep]


def take_hardest(
    ranked: Tensor,
    gt_classes: Tensor,
    batch_size: int,
    bg_label: int,
    positive_fraction: Optional[float] = None,
) -> Tensor:
    """
    Take `batch_size` RoIs, or fewer if there are not enough, from the front of a ranking.

    Args:
        ranked (Tensor): (S,) indices of RoIs, the hardest first.
        gt_classes (Tensor): (R,) label of each RoI, none of them ignored (-1).
        batch_size (int): B, the number of RoIs to keep.
        bg_label (int): label of the background.
        positive_fraction (float): None for the hardest, foreground or not, as in the paper.
            Otherwise the hardest `int(batch_size * positive_fraction)` foreground RoIs (or fewer),
            and the hardest background RoIs to fill the batch.

    Returns:
        Tensor: (B,) long tensor (or shorter), a subset of `ranked` in its order.
    """
    if positive_fraction is None:
        return ranked[:batch_size]

    is_fg = gt_classes[ranked] != bg_label
    # Rank of each RoI among the foreground (background), from 1.
    fg_rank, bg_rank = is_fg.cumsum(0), (~is_fg).cumsum(0)
    keep_fg = is_fg & (fg_rank <= int(batch_size * positive_fraction))
    keep_bg = ~is_fg & (bg_rank <= batch_size - keep_fg.sum())
    return ranked[keep_fg | keep_bg]
