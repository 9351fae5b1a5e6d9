"""
RoIs on ignore regions, which are neither object nor background.
"""

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Instances, pairwise_ioa

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
    Remove the proposals that an ignore region covers. They may show an object without a box of its
    own, so they are neither foreground nor background.

    Args:
        proposals (list[Instances]): the proposals of each image, with the field "proposal_boxes".
        targets (list[Instances]): the objects of each image. :class:`TargetsWithIgnoreRegions`
            have regions, other :class:`Instances` have none.
        ioa_thresh (float): remove a proposal if a larger share of its area lies in one region.

    Returns:
        list[Instances]: the remaining proposals of each image, in their order.
    """
    ret = []
    for proposals_per_image, targets_per_image in zip(proposals, targets, strict=True):
        regions = getattr(targets_per_image, "ignore_boxes", ())
        if len(regions):
            ioa = pairwise_ioa(regions, proposals_per_image.proposal_boxes)  # (#regions, Ri)
            keep = torch.where(~(ioa > ioa_thresh).any(dim=0))[0]
            proposals_per_image = proposals_per_image[keep]
        ret.append(proposals_per_image)
    return ret


class IgnoreRegionsMixin(ROIHeads):
    """
    A mixin for subclasses of :class:`ROIHeads`, named before them: they do not train on proposals
    in ignore regions. Ground-truth boxes are always trained on.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # After the heads, the mixins would be asked last, or not at all.
        before = cls.__mro__[1 : cls.__mro__.index(IgnoreRegionsMixin)]
        heads = [x for x in before if not issubclass(x, IgnoreRegionsMixin)]
        if heads:
            mixin = next(x for x in cls.__bases__ if issubclass(x, IgnoreRegionsMixin))
            raise TypeError(
                f"{cls.__name__} names {mixin.__name__} after {heads[0].__name__}: name it first, "
                f"class {cls.__name__}({mixin.__name__}, {heads[0].__name__})."
            )

    @configurable
    def __init__(self, *, ignore_ioa_thresh: float = DEFAULT_IOA_THRESH, **kwargs: Any):
        """
        Args:
            ignore_ioa_thresh (float): see :func:`remove_ignored_proposals`. 1 ignores no RoI.
            kwargs: arguments of the ROI heads.

        Raises:
            ValueError: if the threshold is outside 0 to 1.
        """
        super().__init__(**kwargs)
        if not 0 <= ignore_ioa_thresh <= 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.IGNORE_IOA_THRESH is {ignore_ioa_thresh!r}. It must be from 0 "
                "to 1."
            )
        self.ignore_ioa_thresh = ignore_ioa_thresh

    @classmethod
    def from_config(cls, cfg, input_shape):
        if "IGNORE_IOA_THRESH" not in cfg.MODEL.ROI_HEADS:
            raise KeyError(
                f"The config lacks the keys of {cls.__name__}: call ohem_d2.add_ohem_config(cfg) "
                "before merging a config file."
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
