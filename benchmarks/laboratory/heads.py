"""
Variants of mining that are tried here and are not part of the package.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, FastRCNNOutputLayers
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ohem_d2 import OHEMROIHeads

__all__ = ["GIoURankingROIHeads", "GrowingOHEMROIHeads", "SmoothL1RankingROIHeads"]


@contextmanager
def box_loss(predictor: FastRCNNOutputLayers, kind: str, beta: float) -> Iterator[None]:
    """
    Have a predictor compute another box loss.
    """
    before = predictor.box_reg_loss_type, predictor.smooth_l1_beta
    predictor.box_reg_loss_type, predictor.smooth_l1_beta = kind, beta
    try:
        yield
    finally:
        predictor.box_reg_loss_type, predictor.smooth_l1_beta = before


class _RankingROIHeads(OHEMROIHeads):
    """
    Ranks by another box loss than the one that trains.
    """

    ranking_loss: ClassVar[tuple[str, float]]

    def compute_roi_losses(
        self, features: dict[str, Tensor], rois: list[Instances], stage: int = 0
    ) -> list[Instances]:
        with box_loss(self.box_predictor, *self.ranking_loss):
            return super().compute_roi_losses(features, rois, stage)


@ROI_HEADS_REGISTRY.register()
class SmoothL1RankingROIHeads(_RankingROIHeads):
    """
    Ranks by the paper's box loss: smooth L1 with beta 1.
    """

    ranking_loss = "smooth_l1", 1.0


@ROI_HEADS_REGISTRY.register()
class GIoURankingROIHeads(_RankingROIHeads):
    """
    Ranks by GIoU loss, from 0 to 2, as a box loss.
    """

    ranking_loss = "giou", 0.0


@ROI_HEADS_REGISTRY.register()
class GrowingOHEMROIHeads(OHEMROIHeads):
    """
    Instead of a switch from random sampling to mining after the warm-up: the share of hard RoIs in
    the batch grows from 0 to 1 in the `RAMP_ITERS` iterations that follow, and random RoIs fill it.
    """

    RAMP_ITERS = 200

    @torch.no_grad()
    def select_hard_rois(
        self, rois: list[Instances], sampled: list[Instances] | None = None
    ) -> list[Instances]:
        mined_iters = get_event_storage().iter - self.ohem_warmup_iters
        share = min(mined_iters / self.RAMP_ITERS, 1.0)
        num_hard = round(share * self.batch_size_per_image)
        hard = super().select_hard_rois(rois, sampled)
        return [
            Instances.cat(
                [x[:num_hard], self._sample(all_rois, self.batch_size_per_image - num_hard)]
            )
            for x, all_rois in zip(hard, rois, strict=True)
        ]

    def _sample(self, rois: Instances, count: int) -> Instances:
        inds = subsample_labels(rois.gt_classes, count, self.positive_fraction, self.num_classes)
        return rois[torch.cat(inds)]
