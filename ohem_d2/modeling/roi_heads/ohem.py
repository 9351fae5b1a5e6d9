"""
ROI heads that train on hard RoIs.
"""

import logging
import sys
from typing import Any, Optional

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
)
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .box_branch import box_predictors
from .describe_sampling import describe_sampling
from .hard_roi_selection import nms_by_loss, take_hardest
from .ignore_regions import IgnoreRegionsMixin
from .mining_events import MiningMonitor, log_mining
from .read_only_pass import compute_roi_losses
from .roi_labels import label_rois, look_up_targets
from .roi_loss import check_minable

__all__ = ["OHEMMixin", "OHEMROIHeads", "OHEMRes5ROIHeads", "default_warmup_iters", "warmup_iters"]

# A child of detectron2's, whose handlers every trainer sets up.
logger = logging.getLogger("detectron2.ohem_d2")


# Without gradient clipping, trainings diverged in which mining began after 50 iterations, and none
# in which it began after 150: see docs/results_full.md.
MIN_WARMUP_ITERS = 150


def default_warmup_iters(lr_warmup_iters: int, max_iter: int) -> int:
    """
    How long to sample RoIs at random before mining starts: while the learning rate warms up, for a
    tenth of the training, or for MIN_WARMUP_ITERS, whichever is longest. A box head that begins at
    random finds the same RoIs hard wherever it looks, and can collapse to the same scores for all
    of them. The paper's head begins with ImageNet's weights and needs no warm-up.

    Args:
        lr_warmup_iters (int): iterations in which the learning rate warms up.
        max_iter (int): iterations of the whole training.
    """
    return max(lr_warmup_iters, max_iter // 10, MIN_WARMUP_ITERS)


def warmup_iters(cfg: CfgNode) -> int:
    """
    Returns:
        int: MODEL.OHEM.WARMUP_ITERS of a config, or its default.
    """
    if cfg.MODEL.OHEM.WARMUP_ITERS is None:
        return default_warmup_iters(cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER)
    return cfg.MODEL.OHEM.WARMUP_ITERS


class OHEMMixin(IgnoreRegionsMixin):
    """
    Online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540) for any subclass of
    :class:`StandardROIHeads` or :class:`Res5ROIHeads`. Name it before the subclass:

    ::

        @ROI_HEADS_REGISTRY.register()
        class MyOHEMROIHeads(OHEMMixin, MyROIHeads):
            pass

    For a subclass of :class:`CascadeROIHeads`, name
    :class:`OHEMCascadeROIHeads` instead. Heads with a `_forward_box` or a
    `label_and_sample_proposals` of their own need another method: docs/configs.md says which.

    Instead of sampling RoIs at random, training

    1. labels all of them and drops those on ignore regions,
    2. leaves out some of the background at random, if there is a limit (`ohem_pool_size`),
    3. computes the loss of each in a read-only pass through the box head,
    4. removes those that overlap a RoI with a larger loss, by NMS,
    5. trains on the `batch_size_per_image` RoIs of each image with the largest loss.

    Inference is unchanged.
    """

    @configurable
    def __init__(
        self,
        *,
        ohem_nms_thresh: float = 0.7,
        ohem_nms_per_class: bool = False,
        ohem_pool_size: int = 0,
        ohem_foreground: str = "mined",
        ohem_positive_fraction: Optional[float] = None,
        ohem_warmup_iters: int = 0,
        ohem_box_loss_weight: float = 1.0,
        ohem_mining_batch_size: int = 512,
        ohem_mining_half_precision: bool = False,
        ohem_monitor: Optional[MiningMonitor] = None,
        **kwargs: Any,
    ):
        """
        Args:
            ohem_nms_thresh (float): remove a RoI if its IoU with a harder one is larger than this.
                1 turns the NMS off.
            ohem_nms_per_class (bool): whether only RoIs with the same label compete in the NMS.
            ohem_pool_size (int): mine among at most this many RoIs of an image, see
                :meth:`sample_pool`. 0 for all, as in the paper.
            ohem_foreground (str): "mined", ranked like background, as in the paper; or "sampled":
                a random sample of at most `batch_size_per_image * positive_fraction` RoIs per
                image, as in detectron2, and the hardest background fills the batch.
            ohem_positive_fraction (float): None for no ratio, as in the paper. Otherwise
                foreground and background are mined separately, and at most this fraction of the
                batch is foreground. Only if foreground is mined.
            ohem_warmup_iters (int): iterations at the start of training in which RoIs are sampled
                at random, as in the parent class. See :func:`default_warmup_iters`.
            ohem_box_loss_weight (float): weight of the box regression loss in the ranking, on top
                of its weight in training.
            ohem_mining_batch_size (int): RoIs per forward of the read-only pass. 0 for all.
            ohem_mining_half_precision (bool): whether the read-only pass runs in half precision.
            ohem_monitor (MiningMonitor): visualizes mining. None to disable.
            kwargs: arguments of the ROI heads.

        Raises:
            ValueError: if an argument is out of range, or the heads cannot be mined.
        """
        super().__init__(**kwargs)
        is_fraction = _is_number(ohem_positive_fraction, 0, 1)
        # fmt: off
        _check("NMS_THRESH", ohem_nms_thresh, _is_number(ohem_nms_thresh, 0, 1), "from 0 to 1")
        _check_one_of("NMS_PER_CLASS", ohem_nms_per_class, (True, False))
        _check_count("POOL_SIZE", ohem_pool_size)
        _check_one_of("FOREGROUND", ohem_foreground, ("sampled", "mined"))
        _check("POSITIVE_FRACTION", ohem_positive_fraction,
               ohem_positive_fraction is None or is_fraction, "None or from 0 to 1")
        _check_count("WARMUP_ITERS", ohem_warmup_iters)
        _check("BOX_LOSS_WEIGHT", ohem_box_loss_weight,
               _is_number(ohem_box_loss_weight, 0), "a number that is not negative")
        _check_count("MINING_BATCH_SIZE", ohem_mining_batch_size)
        _check_one_of("MINING_HALF_PRECISION", ohem_mining_half_precision, (True, False))
        # fmt: on
        if ohem_foreground == "sampled" and ohem_positive_fraction is not None:
            raise ValueError(
                "MODEL.OHEM.POSITIVE_FRACTION applies to mined foreground, but "
                "MODEL.OHEM.FOREGROUND is 'sampled'. Set that to 'mined', or set "
                "MODEL.ROI_HEADS.POSITIVE_FRACTION instead."
            )
        if self.batch_size_per_image < 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE is {self.batch_size_per_image}. It must be "
                "1 or more."
            )
        if 0 < ohem_pool_size < self.batch_size_per_image:
            raise ValueError(
                f"MODEL.OHEM.POOL_SIZE is {ohem_pool_size}: too few to keep "
                f"{self.batch_size_per_image} (MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE) of them. It "
                "must be as many or more, or 0 for all RoIs."
            )
        for predictor in box_predictors(self):
            check_minable(predictor)
        self._check_labels()
        is_cascade = isinstance(self, CascadeROIHeads)
        if is_cascade and type(self).forward_hard_rois is OHEMMixin.forward_hard_rois:
            raise ValueError(
                f"{type(self).__name__} is a CascadeROIHeads, which mines in each stage: name "
                "OHEMCascadeROIHeads before it, instead of OHEMMixin."
            )

        self.ohem_nms_thresh = ohem_nms_thresh
        self.ohem_nms_per_class = ohem_nms_per_class
        self.ohem_pool_size = ohem_pool_size
        self.ohem_foreground = ohem_foreground
        self.ohem_positive_fraction = ohem_positive_fraction
        self.ohem_warmup_iters = ohem_warmup_iters
        self.ohem_box_loss_weight = ohem_box_loss_weight
        self.ohem_mining_batch_size = ohem_mining_batch_size
        self.ohem_mining_half_precision = ohem_mining_half_precision
        self.ohem_monitor = ohem_monitor or MiningMonitor()
        self._has_logged_sampling = False

    def _check_labels(self) -> None:
        """
        Raises:
            ValueError: if the parent class labels RoIs in its own way, which mining would miss.
        """
        mro = type(self).__mro__
        owners = [
            x
            for x in mro[mro.index(OHEMMixin) + 1 :]
            if "label_and_sample_proposals" in vars(x) and x not in (IgnoreRegionsMixin, ROIHeads)
        ]
        if owners and type(self).label_proposals is OHEMMixin.label_proposals:
            raise ValueError(
                f"{owners[0].__name__} has a label_and_sample_proposals of its own, which mining "
                f"does not call. Give {type(self).__name__} a label_proposals(proposals, targets, "
                "stage=0) that labels RoIs like it, without sampling: see "
                "OHEMMixin.label_proposals."
            )

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        # fmt: off
        ret["ohem_nms_thresh"]            = cfg.MODEL.OHEM.NMS_THRESH
        ret["ohem_nms_per_class"]         = cfg.MODEL.OHEM.NMS_PER_CLASS
        ret["ohem_pool_size"]             = cfg.MODEL.OHEM.POOL_SIZE
        ret["ohem_foreground"]            = cfg.MODEL.OHEM.FOREGROUND
        ret["ohem_positive_fraction"]     = cfg.MODEL.OHEM.POSITIVE_FRACTION
        ret["ohem_warmup_iters"]          = warmup_iters(cfg)
        ret["ohem_box_loss_weight"]       = cfg.MODEL.OHEM.BOX_LOSS_WEIGHT
        ret["ohem_mining_batch_size"]     = cfg.MODEL.OHEM.MINING_BATCH_SIZE
        ret["ohem_mining_half_precision"] = cfg.MODEL.OHEM.MINING_HALF_PRECISION
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
        self._log_sampling()
        if get_event_storage().iter < self.ohem_warmup_iters:
            proposals, losses = super().forward(images, features, proposals, targets)
        else:
            proposals, losses = self.forward_hard_rois(images, features, proposals, targets)
        return proposals, self._connect(losses)

    def _log_sampling(self) -> None:
        """
        Once: in any trainer, and only if it trains.
        """
        if not self._has_logged_sampling:
            self._has_logged_sampling = True
            logger.info(f"RoI sampling in training: {describe_sampling(self)}")

    def forward_hard_rois(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Mine, and train the heads on what was mined.

        Args:
            images, features, proposals, targets: see :meth:`ROIHeads.forward`.

        Returns:
            see :meth:`ROIHeads.forward`.
        """
        rois = self.label_proposals(proposals, targets)
        sampled, pool, hard = self.mine_hard_rois(features, rois)
        self.ohem_monitor.show(images, targets, pool, hard, self.num_classes)
        kept = [Instances.cat(x) for x in zip(sampled, hard, strict=True)]
        return super().forward(images, features, kept, targets)

    def mine_hard_rois(
        self, features: dict[str, Tensor], rois: list[Instances]
    ) -> tuple[list[Instances], list[Instances], list[Instances]]:
        """
        All that mining adds to a training step.

        Args:
            features (dict[str, Tensor]): see :meth:`ROIHeads.forward`.
            rois (list[Instances]): for each image, all labeled RoIs.

        Returns:
            for each image, the foreground to train on regardless of its loss, the RoIs that were
            ranked, with their losses, and the hard ones among them.
        """
        sampled, pool = self.sample_foreground(self.sample_pool(rois))
        pool = self.compute_roi_losses(features, pool)
        hard = self.select_hard_rois(pool, sampled)
        log_mining(rois, pool, sampled, hard, self.num_classes)
        return sampled, pool, hard

    def label_proposals(
        self, proposals: list[Instances], targets: list[Instances], stage: int = 0
    ) -> list[Instances]:
        """
        Label all proposals, and in the first stage the ground-truth boxes if `proposal_append_gt`,
        and drop those on ignore regions.

        Args:
            proposals, targets: see :meth:`ROIHeads.forward`.
            stage (int): stage of a cascade, from 0.

        Returns:
            list[Instances]: see :func:`label_rois`.
        """
        return label_rois(
            proposals,
            targets,
            self.proposal_matchers[stage] if stage > 0 else self.proposal_matcher,
            self.num_classes,
            self.proposal_append_gt and stage == 0,
            self.ignore_ioa_thresh,
        )

    @torch.no_grad()
    def sample_pool(self, rois: list[Instances]) -> list[Instances]:
        """
        Choose the RoIs that mining looks at: at most `ohem_pool_size` per image, all foreground and
        a random part of the background. If foreground is limited to a fraction of the batch, by
        `positive_fraction` if it is "sampled" or by `ohem_positive_fraction` if it is "mined", it
        is limited to the same fraction of the pool.

        Args:
            rois (list[Instances]): for each image, all labeled RoIs.

        Returns:
            list[Instances]: for each image, the pool. All RoIs, in their order, if they fit.
        """
        return [self._sample_pool_single_image(x) for x in rois]

    def _sample_pool_single_image(self, rois: Instances) -> Instances:
        if self.ohem_pool_size == 0 or len(rois) <= self.ohem_pool_size:
            return rois
        if self.ohem_foreground == "sampled":
            fraction = self.positive_fraction
        elif self.ohem_positive_fraction is not None:
            fraction = self.ohem_positive_fraction
        else:
            fraction = 1.0
        inds = subsample_labels(rois.gt_classes, self.ohem_pool_size, fraction, self.num_classes)
        return rois[torch.cat(inds)]

    @torch.no_grad()
    def sample_foreground(self, pool: list[Instances]) -> tuple[list[Instances], list[Instances]]:
        """
        Args:
            pool (list[Instances]): for each image, RoIs from :meth:`sample_pool`.

        Returns:
            for each image, the foreground to train on regardless of its loss, and the RoIs to mine.
            If foreground is "mined", none and the whole pool; if it is "sampled", a random sample
            of it and all background.
        """
        if self.ohem_foreground == "mined":
            return [x[:0] for x in pool], pool
        bg_label = self.num_classes
        sampled, background = [], []
        for rois in pool:
            fg_inds, _ = subsample_labels(
                rois.gt_classes, self.batch_size_per_image, self.positive_fraction, bg_label
            )
            sampled.append(rois[fg_inds])
            # Not by a mask, for whose size each field would wait for the GPU.
            background.append(rois[torch.where(rois.gt_classes == bg_label)[0]])
        return sampled, background

    def compute_roi_losses(
        self, features: dict[str, Tensor], rois: list[Instances], stage: int = 0
    ) -> list[Instances]:
        """
        The read-only pass: see :func:`compute_roi_losses`.
        """
        return compute_roi_losses(
            self,
            features,
            rois,
            self.ohem_mining_batch_size,
            stage,
            self.ohem_mining_half_precision,
        )

    @torch.no_grad()
    def select_hard_rois(
        self, rois: list[Instances], sampled: Optional[list[Instances]] = None
    ) -> list[Instances]:
        """
        Args:
            rois (list[Instances]): for each image, the RoIs from :meth:`compute_roi_losses`. They
                get the field "survives_nms".
            sampled (list[Instances]): for each image, the foreground that takes its place in the
                batch already, from :meth:`sample_foreground`. None if there is none.

        Returns:
            list[Instances]: for each image, the RoIs with the largest loss that fill the batch, the
            hardest first.
        """
        batch_sizes = [self.batch_size_per_image] * len(rois)
        if sampled is not None:
            batch_sizes = [self.batch_size_per_image - len(x) for x in sampled]
        return [
            self._select_hard_rois_single_image(x, batch_size)
            for x, batch_size in zip(rois, batch_sizes, strict=True)
        ]

    def _select_hard_rois_single_image(self, rois: Instances, batch_size: int) -> Instances:
        gt_classes = rois.gt_classes
        survivors = nms_by_loss(
            rois.proposal_boxes.tensor,
            rois.loss_cls + self.ohem_box_loss_weight * rois.loss_box_reg,
            gt_classes,
            self.ohem_nms_thresh,
            self.ohem_nms_per_class,
        )
        rois.survives_nms = torch.zeros_like(gt_classes, dtype=torch.bool)
        rois.survives_nms[survivors] = True
        hardest = take_hardest(
            survivors, gt_classes, batch_size, self.num_classes, self.ohem_positive_fraction
        )
        return rois[hardest]

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        See :meth:`ROIHeads.label_and_sample_proposals`, by which the parent's forward would
        sample. Mined RoIs, which :func:`label_rois` has given "gt_inds", lack only their targets.
        """
        if all(x.has("gt_inds") for x in proposals):
            return look_up_targets(proposals, targets)
        return super().label_and_sample_proposals(proposals, targets)

    def _connect(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """
        Without a RoI to train on, detectron2's sigmoid loss is a constant zero. A parameter
        without a gradient would stall DistributedDataParallel.
        """
        if all(loss.requires_grad for loss in losses.values()):
            return losses
        nothing = 0.0 * sum(p.sum() for p in self.box_predictor.parameters())
        return {k: v if v.requires_grad else v + nothing for k, v in losses.items()}


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


def _is_number(value: object, low: float, high: float = sys.float_info.max) -> bool:
    """
    Whether `value` is a finite number from `low` to `high`.
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _check(key: str, value: object, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise ValueError(f"MODEL.OHEM.{key} is {value!r}. It must be {allowed}.")


def _check_one_of(key: str, value: object, allowed: tuple[object, object]) -> None:
    # Types must match as well: 1 == True.
    is_valid = any(value == x and type(value) is type(x) for x in allowed)
    _check(key, value, is_valid, " or ".join(map(repr, allowed)))


def _check_count(key: str, value: object) -> None:
    is_valid = isinstance(value, int) and value >= 0
    _check(key, value, is_valid, "a whole number that is not negative")
