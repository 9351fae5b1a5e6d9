"""
ROI heads that are trained on hard RoIs.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Optional

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .box_branch import box_predictors, forward_rois
from .hard_roi_selection import nms_by_loss, take_hardest
from .ignore_regions import IgnoreRegionsMixin
from .mining_events import MiningMonitor
from .read_only_pass import read_only_roi_losses
from .roi_labels import label_rois
from .roi_loss import check_minable

__all__ = [
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
    "OHEMCascadeROIHeads",
]


class OHEMMixin(IgnoreRegionsMixin):
    """
    Online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540) for any subclass of
    :class:`StandardROIHeads`. Name it before the subclass:

    ::

        @ROI_HEADS_REGISTRY.register()
        class MyOHEMROIHeads(OHEMMixin, MyROIHeads):
            pass

    For a subclass of :class:`Res5ROIHeads` or :class:`CascadeROIHeads`, name
    :class:`OHEMRes5ROIHeads` or :class:`OHEMCascadeROIHeads` in its place.

    In training, instead of sampling RoIs at random, these heads

    1. label all of them, without those on ignore regions,
    2. compute the loss of each in a read-only pass through the box head,
    3. remove those that overlap one with a larger loss, by NMS,
    4. and train on `batch_size_per_image` RoIs of each image: a random sample of the foreground,
       and the hardest background that is left. In the paper it is the hardest, whatever they are:
       `ohem_foreground="mined"`.

    Inference is unchanged.
    """

    @configurable
    def __init__(
        self,
        *,
        ohem_nms_thresh: float = 0.7,
        ohem_nms_per_class: bool = False,
        ohem_foreground: str = "sampled",
        ohem_positive_fraction: Optional[float] = None,
        ohem_warmup_iters: int = 0,
        ohem_cls_loss_weight: float = 1.0,
        ohem_box_loss_weight: float = 1.0,
        ohem_mining_batch_size: int = 512,
        ohem_mining_half_precision: bool = False,
        ohem_mask_keypoint_rois: str = "mined",
        ohem_monitor: Optional[MiningMonitor] = None,
        **kwargs: Any,
    ):
        """
        Args:
            ohem_nms_thresh (float): a RoI is removed if its IoU with a harder one is larger than
                this. 1 turns the NMS off.
            ohem_nms_per_class (bool): whether only RoIs of the same label compete in the NMS.
            ohem_foreground (str): "sampled" at random, at most
                `batch_size_per_image * positive_fraction` RoIs an image, which the hardest
                background adds up to a batch; or "mined", ranked like background.
            ohem_positive_fraction (float): of mined foreground. None for no ratio. Otherwise
                foreground and background are mined apart, and the foreground is at most this
                fraction of the batch.
            ohem_warmup_iters (int): for how many iterations all RoIs are sampled at random.
            ohem_cls_loss_weight, ohem_box_loss_weight (float): weights of the two losses in the
                ranking, on top of the weights that the predictor gives them in training.
            ohem_mining_batch_size (int): how many RoIs to forward at a time in the read-only pass.
                0 for all at once.
            ohem_mining_half_precision (bool): whether the read-only pass is in half precision.
            ohem_mask_keypoint_rois (str): what mask and keypoint heads are trained on: "mined", the
                foreground among the mined RoIs; or "sampled", a random sample of all foreground,
                of at most `batch_size_per_image * positive_fraction` RoIs an image, as in
                detectron2.
            ohem_monitor (MiningMonitor): shows what mining picks. None for none.
            kwargs: arguments of the ROI heads. `positive_fraction` is that of what is sampled.

        Raises:
            ValueError: if an argument is out of its range, or a box predictor cannot be mined.
        """
        super().__init__(**kwargs)
        _check("NMS_THRESH", ohem_nms_thresh, _is_number(ohem_nms_thresh, 0, 1), "from 0 to 1")
        _check_one_of("NMS_PER_CLASS", ohem_nms_per_class, (True, False))
        _check_one_of("FOREGROUND", ohem_foreground, ("sampled", "mined"))
        _check(
            "POSITIVE_FRACTION",
            ohem_positive_fraction,
            ohem_positive_fraction is None or _is_number(ohem_positive_fraction, 0, 1),
            "None or from 0 to 1",
        )
        if ohem_foreground == "sampled" and ohem_positive_fraction is not None:
            raise ValueError(
                "MODEL.OHEM.POSITIVE_FRACTION is of mined foreground, and MODEL.OHEM.FOREGROUND is "
                "'sampled': set that to 'mined', or MODEL.ROI_HEADS.POSITIVE_FRACTION instead."
            )
        _check_count("WARMUP_ITERS", ohem_warmup_iters)
        for name, weight in [
            ("CLS_LOSS_WEIGHT", ohem_cls_loss_weight),
            ("BOX_LOSS_WEIGHT", ohem_box_loss_weight),
        ]:
            _check(name, weight, _is_number(weight, 0), "a number that is not negative")
        _check_count("MINING_BATCH_SIZE", ohem_mining_batch_size)
        _check_one_of("MINING_HALF_PRECISION", ohem_mining_half_precision, (True, False))
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
        _check_one_of("MASK_KEYPOINT_ROIS", ohem_mask_keypoint_rois, ("mined", "sampled"))
        for predictor in box_predictors(self):
            check_minable(predictor)
        # Their training differs from that of StandardROIHeads.
        for theirs, ours in (
            (Res5ROIHeads, OHEMRes5ROIHeads),
            (CascadeROIHeads, OHEMCascadeROIHeads),
        ):
            if isinstance(self, theirs) and not isinstance(self, ours):
                raise ValueError(
                    f"{type(self).__name__} is a {theirs.__name__}: name {ours.__name__} before "
                    "it, instead of OHEMMixin."
                )

        self.ohem_nms_thresh = ohem_nms_thresh
        self.ohem_nms_per_class = ohem_nms_per_class
        self.ohem_foreground = ohem_foreground
        self.ohem_positive_fraction = ohem_positive_fraction
        self.ohem_warmup_iters = ohem_warmup_iters
        self.ohem_cls_loss_weight = ohem_cls_loss_weight
        self.ohem_box_loss_weight = ohem_box_loss_weight
        self.ohem_mining_batch_size = ohem_mining_batch_size
        self.ohem_mining_half_precision = ohem_mining_half_precision
        self.ohem_mask_keypoint_rois = ohem_mask_keypoint_rois
        self.ohem_monitor = ohem_monitor or MiningMonitor()

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        # fmt: off
        ret["ohem_nms_thresh"]            = cfg.MODEL.OHEM.NMS_THRESH
        ret["ohem_nms_per_class"]         = cfg.MODEL.OHEM.NMS_PER_CLASS
        ret["ohem_foreground"]            = cfg.MODEL.OHEM.FOREGROUND
        ret["ohem_positive_fraction"]     = cfg.MODEL.OHEM.POSITIVE_FRACTION
        ret["ohem_warmup_iters"]          = cfg.MODEL.OHEM.WARMUP_ITERS
        ret["ohem_cls_loss_weight"]       = cfg.MODEL.OHEM.CLS_LOSS_WEIGHT
        ret["ohem_box_loss_weight"]       = cfg.MODEL.OHEM.BOX_LOSS_WEIGHT
        ret["ohem_mining_batch_size"]     = cfg.MODEL.OHEM.MINING_BATCH_SIZE
        ret["ohem_mining_half_precision"] = cfg.MODEL.OHEM.MINING_HALF_PRECISION
        ret["ohem_mask_keypoint_rois"]    = cfg.MODEL.OHEM.MASK_KEYPOINT_ROIS
        ret["ohem_monitor"]               = MiningMonitor(cfg)
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
        if not self.training:
            return super().forward(images, features, proposals, targets)
        assert targets, "'targets' argument is required during training"
        labeled = self.label_proposals(proposals, targets)
        self.ohem_monitor.watch(images, targets)
        mined, losses = self._forward_training(images, features, labeled, targets)
        return mined, self._connect(losses)

    def _forward_training(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        labeled: list[Instances],
        targets: list[Instances],
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images, features, targets: see :meth:`ROIHeads.forward`.
            labeled (list[Instances]): all RoIs, from :meth:`label_proposals`.

        Returns:
            see :meth:`ROIHeads.forward`.
        """
        mined = self.mine_hard_rois(features, labeled)
        mined = self._add_foreground_sample(mined, labeled)
        return super().forward(images, features, mined, targets)

    def label_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        Label all proposals, and the ground-truth boxes if `proposal_append_gt`, and drop those on
        ignore regions.

        Args:
            proposals, targets: see :meth:`ROIHeads.forward`.

        Returns:
            list[Instances]: see :func:`label_rois`.
        """
        return label_rois(
            proposals,
            targets,
            self.proposal_matcher,
            self.num_classes,
            self.proposal_append_gt,
            self.ignore_ioa_thresh,
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
        losses = {} if self._warms_up() else self._read_only_roi_losses(features, proposals)
        hard = self.select_hard_rois(proposals, losses)
        return [p[inds] for p, inds in zip(proposals, hard, strict=True)]

    def _warms_up(self) -> bool:
        return get_event_storage().iter < self.ohem_warmup_iters

    def _read_only_roi_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], stage: int = 0
    ) -> dict[str, Tensor]:
        return read_only_roi_losses(
            self,
            features,
            proposals,
            self.ohem_mining_batch_size,
            stage,
            self.ohem_mining_half_precision,
            likeliest_class=self.ohem_monitor.is_watching,
        )

    @torch.no_grad()
    def select_hard_rois(
        self, proposals: list[Instances], losses: dict[str, Tensor]
    ) -> list[Tensor]:
        """
        Choose the hardest RoIs of each image, and log what was seen and chosen.

        Args:
            proposals (list[Instances]): the labeled RoIs from :meth:`label_proposals`.
            losses (dict[str, Tensor]): "loss_cls" and "loss_box_reg" of shape (R,), of the RoIs of
                all images in their order, from :func:`read_only_roi_losses`. Not used in the
                warm-up.

        Returns:
            list[Tensor]: for each image, the indices of the RoIs to train on, the hardest first
            where they are mined.
        """
        if self._warms_up():
            return self._sample_rois(proposals)

        # What is ranked by may be weighted. What is logged is the loss that is trained on.
        ranking = (
            self.ohem_cls_loss_weight * losses["loss_cls"]
            + self.ohem_box_loss_weight * losses["loss_box_reg"]
        )
        total = losses["loss_cls"] + losses["loss_box_reg"]

        num_per_image = [len(x) for x in proposals]
        survivors = [
            nms_by_loss(
                proposals_per_image.proposal_boxes.tensor,
                ranking_per_image,
                proposals_per_image.gt_classes,
                self.ohem_nms_thresh,
                self.ohem_nms_per_class,
            )
            for proposals_per_image, ranking_per_image in zip(
                proposals, ranking.split(num_per_image), strict=True
            )
        ]
        num_survivors = sum(map(len, survivors))
        gt_classes = [x.gt_classes for x in proposals]
        hard = [self._choose(*x) for x in zip(survivors, gt_classes, strict=True)]

        totals = total.split(num_per_image)
        kept_losses = torch.cat([x[inds] for x, inds in zip(totals, hard, strict=True)])
        kept_classes = [x[inds] for x, inds in zip(gt_classes, hard, strict=True)]
        self._log_mining(proposals, total, kept_classes, kept_losses, num_survivors)
        self.ohem_monitor.show(proposals, losses, hard, self.num_classes)
        return hard

    def _choose(self, survivors: Tensor, gt_classes: Tensor) -> Tensor:
        """
        Args:
            survivors (Tensor): indices of the RoIs of one image that NMS left, the hardest first.
            gt_classes (Tensor): (Ri,) labels of all RoIs of the image.

        Returns:
            Tensor: indices of the RoIs to train on.
        """
        if self.ohem_foreground == "mined":
            return take_hardest(
                survivors,
                gt_classes,
                self.batch_size_per_image,
                self.num_classes,
                self.ohem_positive_fraction,
            )
        fg_inds, _ = self._subsample(gt_classes)
        num_bg = self.batch_size_per_image - len(fg_inds)
        bg_inds = take_hardest(survivors, gt_classes, num_bg, self.num_classes, 0.0)
        return torch.cat([fg_inds, bg_inds])

    def _sample_rois(self, proposals: list[Instances]) -> list[Tensor]:
        """
        Sample as detectron2 does, and log how much foreground that gives.

        Returns:
            list[Tensor]: for each image, the indices of the RoIs to train on.
        """
        sampled = [self._subsample(x.gt_classes) for x in proposals]
        storage = get_event_storage()
        for name, inds in zip(("fg", "bg"), zip(*sampled, strict=True), strict=True):
            count = sum(map(len, inds)) / len(proposals)
            storage.put_scalar(f"roi_head/num_{name}_samples", count)
        return [torch.cat(x) for x in sampled]

    def _subsample(self, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Returns:
            indices of foreground and of background, at random as detectron2 samples them.
        """
        return subsample_labels(
            gt_classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        :meth:`forward` has labeled and mined the proposals before it calls the parent's, which
        calls this. What is left to do is to look up the targets of mask, keypoint and other heads,
        for the mined RoIs alone.

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

    def _add_foreground_sample(
        self, mined: list[Instances], labeled: list[Instances]
    ) -> list[Instances]:
        """
        Add what mask and keypoint heads are to be trained on to the mined RoIs, told apart by the
        field "is_mined", unless it is the mined RoIs themselves.
        """
        if self.ohem_mask_keypoint_rois == "mined":
            return mined
        proposals = []
        for mined_per_image, labeled_per_image in zip(mined, labeled, strict=True):
            fg_inds, _ = self._subsample(labeled_per_image.gt_classes)
            both = Instances.cat([mined_per_image, labeled_per_image[fg_inds]])
            both.is_mined = torch.arange(len(both), device=fg_inds.device) < len(mined_per_image)
            proposals.append(both)
        return proposals

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances], *args: Any):
        """
        See :meth:`StandardROIHeads._forward_box`.
        """
        return super()._forward_box(features, _select(proposals, is_mined=True), *args)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]):
        """
        See :meth:`StandardROIHeads._forward_mask`.
        """
        return super()._forward_mask(features, _select(instances, is_mined=False))

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        """
        See :meth:`StandardROIHeads._forward_keypoint`.
        """
        return super()._forward_keypoint(features, _select(instances, is_mined=False))

    def _connect(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """
        Without a RoI to train on, detectron2's sigmoid loss is a constant zero. A parameter
        without a gradient would stall DistributedDataParallel.
        """
        if all(loss.requires_grad for loss in losses.values()):
            return losses
        nothing = 0.0 * sum(p.sum() for p in self.box_predictor.parameters())
        return {k: v if v.requires_grad else v + nothing for k, v in losses.items()}

    def _log_mining(
        self,
        seen: list[Instances],
        seen_losses: Tensor,
        kept_classes: list[Tensor],
        kept_losses: Tensor,
        num_survivors: int,
    ) -> None:
        """
        Log scalars of one minibatch, counts as the mean over its images: roi_head/num_fg_samples
        and roi_head/num_bg_samples of the kept RoIs, as every detectron2 model has them, and

        - ohem/num_rois, ohem/num_fg_rois, ohem/num_bg_rois: RoIs seen
        - ohem/num_kept: RoIs kept
        - ohem/fg_share, ohem/fg_share_kept: foreground of the RoIs seen and kept, from 0 to 1
        - ohem/mean_loss, ohem/mean_loss_kept: mean loss of the RoIs seen and kept
        - ohem/nms_removed: the share of the RoIs seen that NMS removed, from 0 to 1
        """
        num_images, num_seen, num_kept = len(seen), len(seen_losses), len(kept_losses)
        # All that the GPU knows, in one transfer.
        num_fg_seen, num_fg_kept, sum_seen, sum_kept = torch.stack(
            [
                (torch.cat([x.gt_classes for x in seen]) != self.num_classes).sum(),
                (torch.cat(kept_classes) != self.num_classes).sum(),
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
            storage.put_scalar("ohem/fg_share", num_fg_seen / num_seen)
            storage.put_scalar("ohem/fg_share_kept", num_fg_kept / num_kept)
            storage.put_scalar("ohem/mean_loss", sum_seen / num_seen)
            storage.put_scalar("ohem/mean_loss_kept", sum_kept / num_kept)
            storage.put_scalar("ohem/nms_removed", 1 - num_survivors / num_seen)


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(OHEMMixin, StandardROIHeads):
    """
    :class:`StandardROIHeads` with online hard example mining, see :class:`OHEMMixin`.
    """


@ROI_HEADS_REGISTRY.register()
class OHEMRes5ROIHeads(OHEMMixin, Res5ROIHeads):
    """
    :class:`Res5ROIHeads` (C4 models) with online hard example mining, see :class:`OHEMMixin`.
    """

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
        if not self.mask_on or self.ohem_mask_keypoint_rois == "mined":
            return super()._forward_training(images, features, labeled, targets)

        # The parent's forward trains both heads on the same RoIs, whose features they share.
        mined = self.mine_hard_rois(features, labeled)
        proposals = self._add_foreground_sample(mined, labeled)
        proposals = self.label_and_sample_proposals(proposals, targets)

        mined = _select(proposals, is_mined=True)
        losses = self.box_predictor.losses(forward_rois(self, features, mined), mined)
        foreground = _select(proposals, is_mined=False)
        mask_features = self._shared_roi_transform(
            [features[f] for f in self.in_features], [x.proposal_boxes for x in foreground]
        )
        losses.update(self.mask_head(mask_features, foreground))
        return [], losses


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(OHEMMixin, CascadeROIHeads):
    """
    :class:`CascadeROIHeads` with online hard example mining in each stage, see :class:`OHEMMixin`.

    The RoIs of a later stage are the boxes that the stage before it predicts on all of its RoIs,
    and not on the mined ones alone: hard for one stage is not hard for the next.
    """

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
        first, *later = self.mine_stages(features, labeled, targets)
        first = self._add_foreground_sample(first, labeled)
        first = self.label_and_sample_proposals(first, targets)

        losses = self._forward_stages(features, [_select(first, is_mined=True), *later])
        losses.update(self._forward_mask(features, first))
        losses.update(self._forward_keypoint(features, first))
        return first, losses

    @torch.no_grad()
    def mine_stages(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> list[list[Instances]]:
        """
        :meth:`mine_hard_rois` for each stage, with its IoU threshold and its loss.

        Args:
            features, targets: see :meth:`ROIHeads.forward`.
            proposals (list[Instances]): the labeled RoIs of the first stage, from
                :meth:`label_proposals`.

        Returns:
            list[list[Instances]]: for each stage and image the RoIs to train on, hardest first.
        """
        storage = get_event_storage()
        mined = []
        for stage in range(self.num_cascade_stages):
            losses = self._read_only_roi_losses(features, proposals, stage)
            # Of the first stage as of models without a cascade: so has it CascadeROIHeads.
            with storage.name_scope(f"stage{stage}") if stage > 0 else nullcontext():
                hard = self.select_hard_rois(proposals, losses)
            mined.append([p[inds] for p, inds in zip(proposals, hard, strict=True)])
            if stage + 1 < self.num_cascade_stages:
                boxes = losses["pred_boxes"].split([len(x) for x in proposals])
                proposals = self._label_boxes(boxes, targets, stage + 1)
        return mined

    def _label_boxes(
        self, boxes: Sequence[Tensor], targets: list[Instances], stage: int
    ) -> list[Instances]:
        """
        Args:
            boxes (Sequence[Tensor]): for each image (Ri, 4), predicted by the stage before.
            targets: see :meth:`ROIHeads.forward`.
            stage (int): the stage that will use them as proposals, from 1.

        Returns:
            list[Instances]: see :func:`label_rois`.
        """
        proposals = self._create_proposals_from_boxes(boxes, [x.image_size for x in targets])
        return label_rois(
            proposals,
            targets,
            self.proposal_matchers[stage],
            self.num_classes,
            ignore_ioa_thresh=self.ignore_ioa_thresh,
        )

    def _forward_stages(
        self, features: dict[str, Tensor], mined: list[list[Instances]]
    ) -> dict[str, Tensor]:
        """
        Args:
            features: see :meth:`ROIHeads.forward`.
            mined (list[list[Instances]]): from :meth:`mine_stages`.

        Returns:
            dict[str, Tensor]: the box losses of all stages, named as in :class:`CascadeROIHeads`.
        """
        losses = {}
        for stage, proposals in enumerate(mined):
            predictions = forward_rois(self, features, proposals, stage)
            with get_event_storage().name_scope(f"stage{stage}"):
                stage_losses = self.box_predictor[stage].losses(predictions, proposals)
            losses.update({f"{name}_stage{stage}": v for name, v in stage_losses.items()})
        return losses


def _select(proposals: list[Instances], is_mined: bool) -> list[Instances]:
    """
    The mined RoIs, or those for mask and keypoint heads: the same, unless
    :meth:`OHEMMixin._add_foreground_sample` has added others.
    """
    return [p[p.is_mined == is_mined] if p.has("is_mined") else p for p in proposals]


def _is_number(value: object, low: float, high: float = sys.float_info.max) -> bool:
    """
    Whether `value` is a finite number from `low` to `high`.
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _check(key: str, value: object, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise ValueError(f"MODEL.OHEM.{key} must be {allowed}, and is {value!r}.")


def _check_one_of(key: str, value: object, allowed: tuple[object, object]) -> None:
    # By type as well: 1 is True.
    is_valid = any(value == x and type(value) is type(x) for x in allowed)
    _check(key, value, is_valid, " or ".join(map(repr, allowed)))


def _check_count(key: str, value: object) -> None:
    is_valid = isinstance(value, int) and value >= 0
    _check(key, value, is_valid, "a whole number that is not negative")
