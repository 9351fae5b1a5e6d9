"""
RoIs on regions of which the annotations say neither object nor background.
"""

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Instances, pairwise_ioa
from torch import Tensor

__all__ = ["DEFAULT_IOA_THRESH", "IgnoreRegionsMixin", "remove_ignored_proposals"]

# Detectron's TRAIN.CROWD_FILTER_THRESH.
DEFAULT_IOA_THRESH = 0.7


@torch.no_grad()
def remove_ignored_proposals(
    proposals: list[Instances],
    targets: list[Instances],
    ioa_thresh: float = DEFAULT_IOA_THRESH,
) -> list[Instances]:
    """
    Remove the proposals that an ignore region covers: what is on them may be an object without a
    box of its own, so they are neither foreground nor background.

    Args:
        proposals (list[Instances]): for each image, the proposals with the field
            "proposal_boxes".
        targets (list[Instances]): for each image the objects; the regions are looked for in
            :class:`TargetsWithIgnoreRegions`, and other :class:`Instances` have none.
        ioa_thresh (float): remove a proposal if a larger part of its area lies in one region.

    Returns:
        list[Instances]: for each image, the proposals that are left, in their order.
    """
    return [
        p[~_is_covered(p, t, ioa_thresh)] if len(getattr(t, "ignore_boxes", ())) else p
        for p, t in zip(proposals, targets, strict=True)
    ]


def _is_covered(proposals: Instances, targets: Instances, ioa_thresh: float) -> Tensor:
    # (number of regions, R): the share of each proposal that lies in each region
    ioa = pairwise_ioa(targets.ignore_boxes, proposals.proposal_boxes)
    return (ioa > ioa_thresh).any(dim=0)


class IgnoreRegionsMixin(ROIHeads):
    """
    For any subclass of :class:`ROIHeads`, named before it: proposals on ignore regions are not
    trained on. Boxes of the ground truth are, wherever they are.
    """

    @configurable
    def __init__(self, *, ignore_ioa_thresh: float = DEFAULT_IOA_THRESH, **kwargs: Any):
        """
        Args:
            ignore_ioa_thresh (float): see :func:`remove_ignored_proposals`. 1 ignores no RoI.
            kwargs: arguments of the ROI heads.

        Raises:
            ValueError: if the threshold is not from 0 to 1.
        """
        super().__init__(**kwargs)
        if not 0 <= ignore_ioa_thresh <= 1:
            raise ValueError(
                "MODEL.ROI_HEADS.IGNORE_IOA_THRESH must be from 0 to 1, and is "
                f"{ignore_ioa_thresh!r}."
            )
        self.ignore_ioa_thresh = ignore_ioa_thresh

    @classmethod
    def from_config(cls, cfg, input_shape):
        if "IGNORE_IOA_THRESH" not in cfg.MODEL.ROI_HEADS:
            raise KeyError(
                f"{cls.__name__} needs keys that detectron2 does not have: call "
                "ohem_d2.add_ohem_config(cfg) before the config file is merged."
            )
        ret = super().from_config(cfg, input_shape)
        ret["ignore_ioa_thresh"] = cfg.MODEL.ROI_HEADS.IGNORE_IOA_THRESH
        return ret

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        See :meth:`ROIHeads.label_and_sample_proposals`.
        """
        proposals = remove_ignored_proposals(proposals, targets, self.ignore_ioa_thresh)
        return super().label_and_sample_proposals(proposals, targets)
