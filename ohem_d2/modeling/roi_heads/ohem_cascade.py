"""
Cascade R-CNN's heads that train on hard RoIs.
"""

from contextlib import nullcontext

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .box_branch import forward_rois, mask_and_keypoint_losses, proposals_from_predictions
from .mining_events import log_mining
from .ohem import OHEMMixin
from .roi_labels import look_up_targets

__all__ = ["OHEMCascadeROIHeads"]


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(OHEMMixin, CascadeROIHeads):
    """
    :class:`CascadeROIHeads` with online hard example mining in each stage, see :class:`OHEMMixin`.

    The RoIs of a later stage are the boxes that the stage before it predicts on all of its RoIs,
    not on its hard ones alone: what is hard for one stage is not hard for the next. So sampled
    foreground goes through the read-only pass as well, unlike in :class:`OHEMROIHeads`.
    """

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
        rois = self.label_proposals(proposals, targets)
        first, *later = self.mine_stages(images, features, rois, targets)
        first = look_up_targets(first, targets)
        losses = {}
        for stage, kept in enumerate([first, *later]):
            predictions = forward_rois(self, features, kept, stage)
            with get_event_storage().name_scope(f"stage{stage}"):
                stage_losses = self.box_predictor[stage].losses(predictions, kept)
            losses.update({f"{name}_stage{stage}": v for name, v in stage_losses.items()})
        losses.update(mask_and_keypoint_losses(self, features, first))
        return first, losses

    def mine_stages(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        rois: list[Instances],
        targets: list[Instances],
    ) -> list[list[Instances]]:
        """
        Args:
            images, features, targets: see :meth:`ROIHeads.forward`.
            rois (list[Instances]): all RoIs of the first stage, from :meth:`label_proposals`.

        Returns:
            list[list[Instances]]: for each stage and image, the RoIs to train on.
        """
        stages = []
        for stage in range(self.num_cascade_stages):
            if stage > 0:
                proposals = proposals_from_predictions(self, rois)
                rois = self.label_proposals(proposals, targets, stage)
            labeled = rois
            rois = self.compute_roi_losses(features, self.sample_pool(labeled), stage)
            sampled, pool = self.sample_foreground(rois)
            hard = self.select_hard_rois(pool, sampled)
            # Like CascadeROIHeads, log the first stage without a prefix.
            with get_event_storage().name_scope(f"stage{stage}") if stage > 0 else nullcontext():
                log_mining(labeled, pool, sampled, hard, self.num_classes)
            if stage == 0:
                self.ohem_monitor.show(images, targets, pool, hard, self.num_classes)
            stages.append([Instances.cat(x) for x in zip(sampled, hard, strict=True)])
        return stages
