"""
What mining writes to the event storage, and so to metrics.json and TensorBoard.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Optional

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from detectron2.utils.logger import log_first_n
from torch import Tensor

__all__ = ["MiningMonitor", "log_mining"]

# Warn if one of these holds in this share of the last iterations: this share of the kept RoIs, or
# more, is foreground; or the losses of background vary less than this. Not in every iteration: a
# few RoIs still get something through most dead heads, which were seen to vary by up to .06, and
# now and then by .1. A live head soon varies by more than 1.
WARN_SHARE, WARN_ITERS = 0.9, 100
WARN_FG_SHARE = 0.95
WARN_BG_LOSS_CV = 0.1

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@torch.no_grad()
def log_mining(
    labeled: list[Instances],
    seen: list[Instances],
    sampled: list[Instances],
    hard: list[Instances],
    num_classes: int,
) -> None:
    """
    Log scalars of one minibatch, counts as the mean over its images: roi_head/num_fg_samples and
    roi_head/num_bg_samples of the kept RoIs, like every detectron2 model, and

    - ohem/num_rois: RoIs that mining looked at, that is, ranked by their loss
    - ohem/num_left_out: labeled RoIs that it did not look at
    - ohem/num_fg_rois, ohem/num_bg_rois: labeled RoIs, all of them
    - ohem/num_kept: RoIs kept, that is, trained on
    - ohem/fg_share, ohem/fg_share_kept: share of foreground among the labeled RoIs and those kept,
      from 0 to 1
    - ohem/mean_loss, ohem/mean_loss_kept: mean loss of the RoIs that mining looked at, and of the
      hard ones among them
    - ohem/nms_removed: share of the RoIs looked at that NMS removed, from 0 to 1
    - ohem/bg_loss_cv: coefficient of variation (standard deviation / mean) of the classification
      loss of the background that mining looked at. Near 0 if the head gives the same scores for
      every RoI

    Scalars that are not defined, such as means of nothing, are left out.

    Args:
        labeled (list[Instances]): for each image, all RoIs.
        seen (list[Instances]): those that :meth:`OHEMMixin.select_hard_rois` chose from.
        sampled (list[Instances]): foreground that is kept regardless of its loss.
        hard (list[Instances]): those that it chose.
        num_classes (int): number of foreground classes.
    """
    num_images = len(labeled)
    num_labeled, num_seen, num_sampled, num_hard = (
        sum(map(len, x)) for x in (labeled, seen, sampled, hard)
    )
    # A single transfer from the GPU.
    num_fg, num_fg_hard, sum_seen, sum_hard, num_survivors, bg_loss_cv = torch.stack(
        [
            sum((x.gt_classes != num_classes).sum() for x in labeled),
            sum((x.gt_classes != num_classes).sum() for x in hard),
            _losses(seen).sum(),
            _losses(hard).sum(),
            sum(x.survives_nms.sum() for x in seen),
            _bg_loss_cv(seen, num_classes),
        ]
    ).tolist()
    num_kept, num_fg_kept = num_sampled + num_hard, num_sampled + num_fg_hard

    storage = get_event_storage()
    for name, count in (
        ("roi_head/num_fg_samples", num_fg_kept),
        ("roi_head/num_bg_samples", num_kept - num_fg_kept),
        ("ohem/num_rois", num_seen),
        ("ohem/num_left_out", num_labeled - num_seen),
        ("ohem/num_fg_rois", num_fg),
        ("ohem/num_bg_rois", num_labeled - num_fg),
        ("ohem/num_kept", num_kept),
    ):
        storage.put_scalar(name, count / num_images)
    for name, total, count in (
        ("ohem/fg_share", num_fg, num_labeled),
        ("ohem/fg_share_kept", num_fg_kept, num_kept),
        ("ohem/mean_loss", sum_seen, num_seen),
        ("ohem/mean_loss_kept", sum_hard, num_hard),
        ("ohem/nms_removed", num_seen - num_survivors, num_seen),
    ):
        if count:  # else there is no mean
            storage.put_scalar(name, total / count)
    if math.isfinite(bg_loss_cv):
        storage.put_scalar("ohem/bg_loss_cv", bg_loss_cv)
    _warn_of_foreground(storage)
    _warn_of_dead_head(storage)


def _warn_of_foreground(storage: EventStorage) -> None:
    _warn_if_it_lasts(
        storage,
        "ohem/fg_share_kept",
        lambda share: share >= WARN_FG_SHARE,
        f"{WARN_FG_SHARE:.0%} or more of the RoIs that mining kept were foreground in nearly all "
        f"of the last {WARN_ITERS} iterations: the box regression loss decides the ranking, and "
        "the model hardly trains on background. Set MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA to 1.0, "
        "the paper's box loss, or MODEL.OHEM.FOREGROUND to 'sampled'. If ohem/num_fg_rois is "
        "close to MODEL.OHEM.POOL_SIZE, foreground fills the pool: raise that.",
    )


def _warn_of_dead_head(storage: EventStorage) -> None:
    _warn_if_it_lasts(
        storage,
        "ohem/bg_loss_cv",
        lambda cv: cv < WARN_BG_LOSS_CV,
        "The box head gave almost the same scores for every RoI in nearly all of the last "
        f"{WARN_ITERS} iterations: it is dead, its ReLUs pass hardly anything on, and it is "
        "unlikely to recover. Start again with SOLVER.CLIP_GRADIENTS.ENABLED True, a lower "
        "SOLVER.BASE_LR, or a longer MODEL.OHEM.WARMUP_ITERS.",
    )


def _warn_if_it_lasts(
    storage: EventStorage, name: str, is_bad: Callable[[float], bool], message: str
) -> None:
    """
    Warn once if nearly all of the last values of a scalar are bad.
    """
    # put_scalar() adds the name scope, such as a cascade's stage, and history() does not.
    name = storage._current_prefix + name
    if name not in storage.histories():
        return
    # With accumulated gradients an iteration has several values, so the warning comes earlier.
    recent = storage.history(name).values()[-WARN_ITERS:]
    num_bad = sum(is_bad(value) for value, _ in recent)
    if len(recent) == WARN_ITERS and num_bad >= WARN_SHARE * WARN_ITERS:
        # The name tells the stage. Once for each message: the caller is always this function.
        log_first_n(logging.WARNING, f"{message} ({name})", name=__name__, key="message")


class MiningMonitor:
    """
    Every `period` iterations, in the main process, logs

    - the picture "ohem/hard_rois": the first image of the minibatch, with the hard RoIs colored by
      their loss, see :func:`draw_hard_rois`;
    - ohem/loss_p50, ohem/loss_p90 and ohem/loss_p99: quantiles of the loss of the RoIs that mining
      looked at, and ohem/loss_kept_p50 and so on of the hard ones;
    - ohem/mistaken_for/CLASS: share of the hard background whose likeliest foreground class is
      CLASS, from 0 to 1.
    """

    @configurable
    def __init__(
        self,
        *,
        period: int = 0,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        input_format: str = "BGR",
        class_names: Optional[Sequence[str]] = None,
    ):
        """
        Args:
            period (int): in iterations. 0 for never.
            pixel_mean, pixel_std: the values that images are normalized with, per channel.
            input_format (str): the channels, see INPUT.FORMAT.
            class_names: names of the foreground classes. If their number is another, classes are
                numbered.
        """
        self.period = period
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.input_format = input_format
        self.class_names = class_names

    @classmethod
    def from_config(cls, cfg: CfgNode):
        names = [MetadataCatalog.get(x).get("thing_classes") for x in cfg.DATASETS.TRAIN[:1]]
        return {
            "period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "class_names": names[0] if names else None,
        }

    @torch.no_grad()
    def show(
        self,
        images: ImageList,
        targets: list[Instances],
        seen: list[Instances],
        hard: list[Instances],
        num_classes: int,
    ) -> None:
        """
        Args:
            images, targets: see :meth:`ROIHeads.forward`.
            seen, hard, num_classes: see :func:`log_mining`.
        """
        if self.period == 0 or get_event_storage().iter % self.period != 0:
            return
        # Nobody sees, or clears, what is in the storage of another process.
        if not comm.is_main_process():
            return
        self._put_quantiles("ohem/loss", _losses(seen))
        self._put_quantiles("ohem/loss_kept", _losses(hard))
        background = [x[x.gt_classes == num_classes] for x in hard]
        self._put_mistakes(torch.cat([x.pred_classes for x in background]), num_classes)
        self._put_picture(images[0], targets[0], hard[0], num_classes)

    def _put_quantiles(self, name: str, losses: Tensor) -> None:
        if len(losses) == 0:
            return
        levels = torch.tensor(list(QUANTILES.values()), device=losses.device)
        values = torch.quantile(losses.float(), levels).tolist()
        get_event_storage().put_scalars(
            **{f"{name}_{k}": v for k, v in zip(QUANTILES, values, strict=True)},
            smoothing_hint=False,
        )

    def _put_mistakes(self, classes: Tensor, num_classes: int) -> None:
        if len(classes) == 0:
            return
        shares = (torch.bincount(classes, minlength=num_classes) / len(classes)).tolist()
        names: Sequence[object] = self.class_names or ()
        if len(names) != num_classes:  # a dataset may have fewer than the model
            names = range(num_classes)
        get_event_storage().put_scalars(
            **{f"ohem/mistaken_for/{k}": v for k, v in zip(names, shares, strict=True)},
            smoothing_hint=False,
        )

    def _put_picture(
        self, image: Tensor, targets: Instances, hard: Instances, num_classes: int
    ) -> None:
        # Here, because it needs matplotlib, which training without pictures does not.
        from ...visualization.hard_rois import draw_hard_rois

        mean, std = (
            torch.as_tensor(x, device=image.device).view(-1, 1, 1)
            for x in (self.pixel_mean, self.pixel_std)
        )
        pixels = (image.float() * std + mean).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()
        picture = draw_hard_rois(
            [convert_image_to_rgb(pixels, self.input_format)],
            [targets.gt_boxes.to("cpu")],
            [hard.to("cpu")],
            num_classes,
        )
        get_event_storage().put_image("ohem/hard_rois", picture.transpose(2, 0, 1))


def _losses(rois: list[Instances]) -> Tensor:
    """
    Returns:
        Tensor: (R,) loss of each RoI of all images, as trained on.
    """
    return torch.cat([x.loss_cls + x.loss_box_reg for x in rois])


def _bg_loss_cv(rois: list[Instances], num_classes: int) -> Tensor:
    """
    Returns:
        Tensor: scalar, the coefficient of variation of the classification losses of background.
        Not finite if there are fewer than two, if all are 0, or if one is not finite.
    """
    losses = torch.cat([x.loss_cls for x in rois])
    # A mask, not an index, for whose size the CPU would wait for the GPU.
    is_bg = torch.cat([x.gt_classes for x in rois]) == num_classes
    num_bg = is_bg.sum()
    mean = torch.where(is_bg, losses, 0.0).sum() / num_bg
    # Divided by the mean before they are squared: the square of a tiny loss is 0.
    deviations = torch.where(is_bg, losses / mean - 1, 0.0)
    return (deviations.square().sum() / (num_bg - 1).clamp(min=0)).sqrt()
