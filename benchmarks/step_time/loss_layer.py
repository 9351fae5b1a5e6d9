"""
The implementation that the paper compares its own with.
"""

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import ImageList, Instances
from torch import Tensor

from ohem_d2 import OHEMROIHeads
from ohem_d2.modeling.roi_heads.box_branch import forward_rois, mask_and_keypoint_losses
from ohem_d2.modeling.roi_heads.mining_events import log_mining
from ohem_d2.modeling.roi_heads.roi_labels import look_up_targets
from ohem_d2.modeling.roi_heads.roi_loss import fed_loss_class_mask, roi_losses

__all__ = ["LossLayerOHEMROIHeads"]


@ROI_HEADS_REGISTRY.register()
class LossLayerOHEMROIHeads(OHEMROIHeads):
    """
    Online hard example mining as a loss layer: one pass with gradients over all RoIs, in whose
    loss the easy ones count zero. Same gradients as :class:`OHEMROIHeads`, up to rounding and
    dropout, at the cost of a backward pass over all RoIs. It exists to measure that cost.
    """

    @configurable
    def __init__(self, **kwargs: Any):
        """
        Args:
            kwargs: arguments of :class:`OHEMROIHeads`.

        Raises:
            ValueError: if other heads train on predicted boxes.
        """
        super().__init__(**kwargs)
        if self.train_on_pred_boxes:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES is not supported by {type(self).__name__}."
            )

    def forward_hard_rois(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        See :meth:`OHEMMixin.forward_hard_rois`.
        """
        labeled = self.label_proposals(proposals, targets)
        rois = self.sample_pool(labeled)
        predictor = self.box_predictor
        class_mask = fed_loss_class_mask(predictor, torch.cat([x.gt_classes for x in rois]))
        predictions = forward_rois(self, features, rois)
        losses = roi_losses(predictor, predictions, rois, class_mask)

        start = 0
        for x in rois:
            x.index = torch.arange(start, start + len(x), device=x.gt_classes.device)
            for name, loss in losses.items():
                x.set(name, loss.detach()[x.index])
            start += len(x)
        sampled, pool = self.sample_foreground(rois)
        hard = self.select_hard_rois(pool, sampled)
        log_mining(labeled, pool, sampled, hard, self.num_classes)

        kept = [Instances.cat(x) for x in zip(sampled, hard, strict=True)]
        inds = torch.cat([x.index for x in kept])
        is_hard = torch.zeros(start, device=inds.device).index_fill(0, inds, 1.0)
        losses = {k: (is_hard * loss).sum() / max(len(inds), 1) for k, loss in losses.items()}
        kept = look_up_targets(kept, targets)
        return kept, {**losses, **mask_and_keypoint_losses(self, features, kept)}
