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
    The baseline to compare OHEM with: :class:`StandardROIHeads` with ignore regions and `bg_lo`,
    Fast R-CNN's heuristic for hard background, which OHEM makes unnecessary.

    RoIs are sampled at random, at most `positive_fraction` of them foreground. Background RoIs are
    those whose largest IoU with an object is at least `bg_lo`. RoIs below it, such as all RoIs of
    an image without objects, are not trained on.
    """

    proposal_matcher: Matcher

    @configurable
    def __init__(self, *, bg_lo: float = 0.0, **kwargs: Any):
        """
        Args:
            bg_lo (float): lowest IoU of background RoIs. 0: all RoIs are foreground or background.
            kwargs: arguments of :class:`StandardROIHeads`.

        Raises:
            ValueError: if `bg_lo` is below 0 or above the matcher's lowest threshold.
        """
        super().__init__(**kwargs)
        matcher = self.proposal_matcher
        thresholds = matcher.thresholds[1:-1]  # without the infinities that Matcher adds
        if not 0 <= bg_lo <= thresholds[0]:
            raise ValueError(
                f"MODEL.ROI_HEADS.BG_LO is {bg_lo!r}. It must be from 0 to the lowest of "
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS ({thresholds[0]})."
            )
        self.bg_lo = bg_lo
        if bg_lo > 0:
            # Label -1 is not sampled.
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
            # Without objects, detectron2 skips the matcher and labels all RoIs background.
            proposals = [
                p if len(t) > 0 else p[:0] for p, t in zip(proposals, targets, strict=True)
            ]
        return super().label_and_sample_proposals(proposals, targets)
