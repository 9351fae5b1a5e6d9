"""
The baseline: RoIs sampled as in Fast R-CNN (Girshick 2015, arXiv:1504.08083).
"""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Instances

from .ignore_regions import IgnoreRegionsMixin

__all__ = ["HeuristicROIHeads"]


@ROI_HEADS_REGISTRY.register()
class HeuristicROIHeads(IgnoreRegionsMixin, StandardROIHeads):
    """
    :class:`StandardROIHeads` with what a comparison with OHEM needs and they lack: ignore regions,
    and `bg_lo`, the heuristic of Fast R-CNN that OHEM makes superfluous.

    RoIs are sampled at random, at most `positive_fraction` of them foreground. Background are
    those whose largest IoU with an object is from `bg_lo` to below the foreground's; those below
    it, as all of an image without objects, are not trained on.
    """

    proposal_matcher: Matcher

    @configurable
    def __init__(self, *, bg_lo: float = 0.0, **kwargs: Any):
        """
        Args:
            bg_lo (float): the lowest IoU of background. 0 makes all that is not foreground
                background.
            kwargs: arguments of :class:`StandardROIHeads`.

        Raises:
            ValueError: if `bg_lo` is below 0 or above the matcher's lowest threshold.
        """
        super().__init__(**kwargs)
        matcher = self.proposal_matcher
        thresholds = matcher.thresholds[1:-1]  # it has added infinity at both ends
        if not 0 <= bg_lo <= thresholds[0]:
            raise ValueError(
                "MODEL.ROI_HEADS.BG_LO must be from 0 to the lowest of MODEL.ROI_HEADS."
                f"IOU_THRESHOLDS ({thresholds[0]}), and is {bg_lo!r}."
            )
        self.bg_lo = bg_lo
        if bg_lo > 0:
            # The label -1 is not sampled.
            self.proposal_matcher = Matcher([bg_lo, *thresholds], [-1, *matcher.labels])

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret["bg_lo"] = cfg.MODEL.ROI_HEADS.BG_LO
        return ret

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        See :meth:`ROIHeads.label_and_sample_proposals`.
        """
        if self.bg_lo > 0:
            # It takes all proposals of an image without objects for background, whatever the
            # matcher says.
            proposals = [
                p if len(t) > 0 else p[:0] for p, t in zip(proposals, targets, strict=True)
            ]
        return super().label_and_sample_proposals(proposals, targets)
