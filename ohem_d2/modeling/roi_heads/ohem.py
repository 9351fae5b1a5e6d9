"""
ROI heads that are trained on hard RoIs.
"""

import sys
from typing import Optional

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .hard_roi_selection import nms_by_loss, take_hardest
from .read_only_forward import read_only_roi_losses
from .roi_labels import label_rois
from .roi_loss import check_minable

__all__ = ["OHEMROIHeads"]


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(StandardROIHeads):
    """
    :class:`StandardROIHeads` with online hard example mining (Shrivastava et al. 2016,
    arXiv:1604.03540). In training, instead of sampling RoIs at random, it

    1. labels all of them,
    2. computes the loss of each in a read-only pass through the box head,
    3. removes those that overlap one with a larger loss, by NMS,
    4. and trains on the `batch_size_per_image` hardest that are left of each image, or on all of
       them if there are fewer.

    Mask and keypoint heads are trained on the foreground among them. Inference is unchanged.
    """

    @configurable
    def __init__(
        self,
        *,
        ohem_nms_thresh: float = 0.7,
        ohem_nms_per_class: bool = False,
        ohem_positive_fraction: Optional[float] = None,
        ohem_cls_loss_weight: float = 1.0,
        ohem_box_loss_weight: float = 1.0,
        ohem_mining_batch_size: int = 0,
        **kwargs,
    ):
        """
        Args:
            ohem_nms_thresh (float): a RoI is removed if its IoU with a harder one is larger than
                this. 1 turns the NMS off.
            ohem_nms_per_class (bool): whether only RoIs of the same label compete in the NMS.
            ohem_positive_fraction (float): None for no ratio. Otherwise foreground and background
                are mined apart, and the foreground is at most this fraction of the batch.
            ohem_cls_loss_weight, ohem_box_loss_weight (float): weights of the two losses in the
                ranking, on top of the weights that the predictor gives them in training.
            ohem_mining_batch_size (int): how many RoIs to forward at a time in the read-only pass.
                0 for all at once.
            kwargs: arguments of :class:`StandardROIHeads`. Its `positive_fraction` is not used.

        Raises:
            ValueError: if an argument is out of its range, or the box predictor cannot be mined.
        """
        super().__init__(**kwargs)
        _check("NMS_THRESH", ohem_nms_thresh, _is_number(ohem_nms_thresh, 0, 1), "from 0 to 1")
        _check(
            "NMS_PER_CLASS",
            ohem_nms_per_class,
            isinstance(ohem_nms_per_class, bool),
            "True or False",
        )
        _check(
            "POSITIVE_FRACTION",
            ohem_positive_fraction,
            ohem_positive_fraction is None or _is_number(ohem_positive_fraction, 0, 1),
            "None or from 0 to 1",
        )
        for name, weight in [
            ("CLS_LOSS_WEIGHT", ohem_cls_loss_weight),
            ("BOX_LOSS_WEIGHT", ohem_box_loss_weight),
        ]:
            _check(name, weight, _is_number(weight, 0), "a number that is not negative")
        _check(
            "MINING_BATCH_SIZE",
            ohem_mining_batch_size,
            isinstance(ohem_mining_batch_size, int) and ohem_mining_batch_size >= 0,
            "a whole number that is not negative",
        )
        if ohem_cls_loss_weight == ohem_box_loss_weight == 0:
            raise ValueError(
                "MODEL.OHEM.CLS_LOSS_WEIGHT and MODEL.OHEM.BOX_LOSS_WEIGHT must not both be 0: "
                "nothing would be left to rank RoIs by."
            )
        if self.batch_size_per_image < 1:
            raise ValueError(
                "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE must be 1 or more, and is "
                f"{self.batch_size_per_image}."
            )
        check_minable(self.box_predictor)

        self.ohem_nms_thresh = ohem_nms_thresh
        self.ohem_nms_per_class = ohem_nms_per_class
        self.ohem_positive_fraction = ohem_positive_fraction
        self.ohem_cls_loss_weight = ohem_cls_loss_weight
        self.ohem_box_loss_weight = ohem_box_loss_weight
        self.ohem_mining_batch_size = ohem_mining_batch_size

    @classmethod
    def from_config(cls, cfg, input_shape):
        if "OHEM" not in cfg.MODEL:
            raise KeyError(
                f"{cls.__name__} needs the keys MODEL.OHEM.*: call ohem_d2.add_ohem_config(cfg) "
                "before the config file is merged."
            )
        ret = super().from_config(cfg, input_shape)
        # fmt: off
        ret["ohem_nms_thresh"]        = cfg.MODEL.OHEM.NMS_THRESH
        ret["ohem_nms_per_class"]     = cfg.MODEL.OHEM.NMS_PER_CLASS
        ret["ohem_positive_fraction"] = cfg.MODEL.OHEM.POSITIVE_FRACTION
        ret["ohem_cls_loss_weight"]   = cfg.MODEL.OHEM.CLS_LOSS_WEIGHT
        ret["ohem_box_loss_weight"]   = cfg.MODEL.OHEM.BOX_LOSS_WEIGHT
        ret["ohem_mining_batch_size"] = cfg.MODEL.OHEM.MINING_BATCH_SIZE
        # fmt: on
        return ret

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: Optional[list[Instances]] = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        See :meth:`ROIHeads.forward`.
        """
        if self.training:
            assert targets, "'targets' argument is required during training"
            proposals = self.label_proposals(proposals, targets)
            proposals = self.mine_hard_rois(features, proposals)
        return super().forward(images, features, proposals, targets)

    def label_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        Label all proposals, and the ground-truth boxes if `proposal_append_gt`.

        Args:
            proposals, targets: see :meth:`ROIHeads.forward`.

        Returns:
            list[Instances]: see :func:`label_rois`.
        """
        return label_rois(
            proposals, targets, self.proposal_matcher, self.num_classes, self.proposal_append_gt
        )

    @torch.no_grad()
    def mine_hard_rois(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """
        Keep the hardest RoIs of each image, and log what was seen and kept.

        Args:
            features: see :meth:`ROIHeads.forward`.
            proposals (list[Instances]): the labeled RoIs from :meth:`label_proposals`.

        Returns:
            list[Instances]: for each image the RoIs to train on, the hardest first.
        """
        losses = read_only_roi_losses(self, features, proposals, self.ohem_mining_batch_size)
        # What is ranked by may be weighted. What is logged is the loss that is trained on.
        ranking = (
            self.ohem_cls_loss_weight * losses["loss_cls"]
            + self.ohem_box_loss_weight * losses["loss_box_reg"]
        )
        total = losses["loss_cls"] + losses["loss_box_reg"]

        mined, mined_losses, num_survivors = [], [], 0
        num_per_image = [len(x) for x in proposals]
        for proposals_per_image, ranking_per_image, total_per_image in zip(
            proposals, ranking.split(num_per_image), total.split(num_per_image), strict=True
        ):
            survivors = nms_by_loss(
                proposals_per_image.proposal_boxes.tensor,
                ranking_per_image,
                proposals_per_image.gt_classes,
                self.ohem_nms_thresh,
                self.ohem_nms_per_class,
            )
            hard = take_hardest(
                survivors,
                proposals_per_image.gt_classes,
                self.batch_size_per_image,
                self.num_classes,
                self.ohem_positive_fraction,
            )
            mined.append(proposals_per_image[hard])
            mined_losses.append(total_per_image[hard])
            num_survivors += len(survivors)

        self._log_mining(proposals, total, mined, torch.cat(mined_losses), num_survivors)
        return mined

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        :meth:`forward` has labeled and mined the proposals before it calls
        :meth:`StandardROIHeads.forward`, which calls this. What is left to do is to look up the
        targets of mask, keypoint and other heads, for the mined RoIs alone.

        Args:
            proposals (list[Instances]): from :meth:`mine_hard_rois`.
            targets: see :meth:`ROIHeads.forward`.

        Returns:
            list[Instances]: see :meth:`ROIHeads.label_and_sample_proposals`.
        """
        for proposals_per_image, targets_per_image in zip(proposals, targets, strict=True):
            gt_inds = proposals_per_image.gt_inds
            proposals_per_image.remove("gt_inds")
            if len(targets_per_image) == 0:
                continue
            for name, value in targets_per_image.get_fields().items():
                if name.startswith("gt_") and not proposals_per_image.has(name):
                    proposals_per_image.set(name, value[gt_inds])
        return proposals

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        """
        See :meth:`StandardROIHeads._forward_box`.
        """
        outputs = super()._forward_box(features, proposals)
        if self.training and not outputs["loss_cls"].requires_grad:
            # Without a RoI to train on, detectron2's sigmoid loss is a constant zero. A parameter
            # without a gradient would stall DistributedDataParallel.
            outputs["loss_cls"] = outputs["loss_cls"] + 0.0 * sum(
                p.sum() for p in self.box_predictor.parameters()
            )
        return outputs

    def _log_mining(
        self,
        seen: list[Instances],
        seen_losses: Tensor,
        kept: list[Instances],
        kept_losses: Tensor,
        num_survivors: int,
    ) -> None:
        """
        Log scalars of one minibatch, counts as the mean over its images: roi_head/num_fg_samples
        and roi_head/num_bg_samples of the kept RoIs, as every detectron2 model has them, and

        - ohem/num_rois, ohem/num_fg_rois, ohem/num_bg_rois: RoIs seen
        - ohem/num_kept: RoIs kept
        - ohem/mean_loss, ohem/mean_loss_kept: mean loss of the RoIs seen and kept
        - ohem/nms_removed: the share of the RoIs seen that NMS removed, from 0 to 1
        """
        num_images, num_seen, num_kept = len(seen), len(seen_losses), len(kept_losses)
        # All that the GPU knows, in one transfer.
        num_fg_seen, num_fg_kept, sum_seen, sum_kept = torch.stack(
            [
                (torch.cat([x.gt_classes for x in seen]) != self.num_classes).sum(),
                (torch.cat([x.gt_classes for x in kept]) != self.num_classes).sum(),
                seen_losses.sum(),
                kept_losses.sum(),
            ]
        ).tolist()

        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", num_fg_kept / num_images)
        storage.put_scalar("roi_head/num_bg_samples", (num_kept - num_fg_kept) / num_images)
        storage.put_scalar("ohem/num_rois", num_seen / num_images)
        storage.put_scalar("ohem/num_fg_rois", num_fg_seen / num_images)
        storage.put_scalar("ohem/num_bg_rois", (num_seen - num_fg_seen) / num_images)
        storage.put_scalar("ohem/num_kept", num_kept / num_images)
        if num_kept:  # else there is no mean
            storage.put_scalar("ohem/mean_loss", sum_seen / num_seen)
            storage.put_scalar("ohem/mean_loss_kept", sum_kept / num_kept)
            storage.put_scalar("ohem/nms_removed", 1 - num_survivors / num_seen)


def _is_number(value: object, low: float, high: float = sys.float_info.max) -> bool:
    """
    Whether `value` is a finite number from `low` to `high`.
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _check(key: str, value: object, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise ValueError(f"MODEL.OHEM.{key} must be {allowed}, and is {value!r}.")
