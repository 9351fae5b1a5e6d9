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
from ohem_d2.modeling.roi_heads.box_branch import forward_rois
from ohem_d2.modeling.roi_heads.roi_loss import fed_loss_class_mask, roi_losses

__all__ = ["LossLayerOHEMROIHeads"]


@ROI_HEADS_REGISTRY.register()
class LossLayerOHEMROIHeads(OHEMROIHeads):
    """
    Online hard example mining as a loss layer: one pass with gradients over all RoIs, in whose
    loss the easy ones count zero. The same gradients as :class:`OHEMROIHeads`, up to rounding and
    the masks of dropout, for the memory and time of a backward pass over all RoIs. It is here to
    measure that cost, not for use.
    """

    @configurable
    def __init__(self, **kwargs: Any):
        """
        Args:
            kwargs: arguments of :class:`OHEMROIHeads`.

        Raises:
            ValueError: if other heads are to be trained on predicted boxes.
        """
        super().__init__(**kwargs)
        if self.train_on_pred_boxes:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES is not supported by {type(self).__name__}."
            )

    def _forward_training(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        labeled: list[Instances],
        targets: list[Instances],
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        See :meth:`OHEMMixin._forward_training`.
        """
        predictor = self.box_predictor
        class_mask = fed_loss_class_mask(predictor, torch.cat([x.gt_classes for x in labeled]))
        predictions = forward_rois(self, features, labeled)
        roi_loss = roi_losses(predictor, predictions, labeled, class_mask)

        hard = self.select_hard_rois(labeled, roi_loss)
        is_hard = torch.cat(
            [
                torch.zeros(len(x), device=inds.device).index_fill(0, inds, 1.0)
                for x, inds in zip(labeled, hard, strict=True)
            ]
        )
        num_hard = max(sum(len(inds) for inds in hard), 1)
        losses = {name: (is_hard * loss).sum() / num_hard for name, loss in roi_loss.items()}

        mined = [x[inds] for x, inds in zip(labeled, hard, strict=True)]
        mined = self._add_foreground_sample(mined, labeled)
        mined = self.label_and_sample_proposals(mined, targets)
        losses.update(self._forward_mask(features, mined))
        losses.update(self._forward_keypoint(features, mined))
        return mined, losses
