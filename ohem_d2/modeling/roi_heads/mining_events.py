"""
Shows what mining picks, now and then in training.
"""

from collections.abc import Sequence
from typing import Optional

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.visualizer import Visualizer
from matplotlib import colormaps
from torch import Tensor

__all__ = ["MiningMonitor"]

MIN_SIZE = 800  # of a picture's longer side, in pixels
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class MiningMonitor:
    """
    In every so many iterations, of one process, puts into the event storage, and so into
    TensorBoard,

    - the picture "ohem/hard_rois": the first image of the minibatch, with the RoIs that are trained
      on, foreground solid and background dotted, from blue to yellow by their loss, and the objects
      in white;
    - ohem/loss_p50, ohem/loss_p90 and ohem/loss_p99: quantiles of the loss of all RoIs, and
      ohem/loss_kept_p50 and so on of those that are trained on;
    - ohem/mistaken_for/CLASS: the share of the background that is trained on whose likeliest
      foreground class is this, from 0 to 1.

    Of a cascade, it is the first stage that is shown.
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
            pixel_mean, pixel_std: what images are normalized with, for each channel.
            input_format (str): what the channels are, see INPUT.FORMAT.
            class_names: of the foreground. If there is not one for each, they are numbered.
        """
        self.period = period
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.input_format = input_format
        self.class_names = class_names
        self._watched: Optional[tuple[Tensor, Tensor]] = None  # the image, and boxes of objects

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

    @property
    def is_watching(self) -> bool:
        """
        Whether the next :meth:`show` will show something.
        """
        return self._watched is not None

    def watch(self, images: ImageList, targets: list[Instances]) -> None:
        """
        Begin a minibatch.

        Args:
            images, targets: see :meth:`ROIHeads.forward`.
        """
        self._watched = None
        if self.period == 0 or get_event_storage().iter % self.period != 0:
            return
        # Nobody sees, or clears, what is in the storage of another process.
        if comm.is_main_process():
            self._watched = images[0], targets[0].gt_boxes.tensor

    def show(
        self,
        proposals: list[Instances],
        losses: dict[str, Tensor],
        hard: list[Tensor],
        num_classes: int,
    ) -> None:
        """
        Put it into the event storage if :meth:`watch` was called in such an iteration, and not
        again before the next.

        Args:
            proposals, losses: see :meth:`OHEMMixin.select_hard_rois`.
            hard (list[Tensor]): what it returns.
            num_classes (int): number of foreground classes.
        """
        if self._watched is None:
            return
        (image, objects), self._watched = self._watched, None
        num_per_image = [len(x) for x in proposals]
        loss = losses["loss_cls"] + losses["loss_box_reg"]
        kept_losses = [x[y] for x, y in zip(loss.split(num_per_image), hard, strict=True)]
        mined = [x[y] for x, y in zip(proposals, hard, strict=True)]
        self._put_quantiles("ohem/loss", loss)
        self._put_quantiles("ohem/loss_kept", torch.cat(kept_losses))
        if "likeliest_class" in losses:
            likeliest = losses["likeliest_class"].split(num_per_image)
            is_bg = torch.cat([x.gt_classes for x in mined]) == num_classes
            kept = torch.cat([x[y] for x, y in zip(likeliest, hard, strict=True)])
            self._put_mistakes(kept[is_bg], num_classes)
        self._put_picture(image, objects, mined[0], kept_losses[0], num_classes)

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
        self, image: Tensor, objects: Tensor, mined: Instances, losses: Tensor, num_classes: int
    ) -> None:
        mean, std = (
            torch.as_tensor(x, device=image.device).view(-1, 1, 1)
            for x in (self.pixel_mean, self.pixel_std)
        )
        pixels = (image.float() * std + mean).permute(1, 2, 0).cpu()
        pixels = convert_image_to_rgb(pixels, self.input_format).clip(0, 255)
        # Darker, so that the colors are seen; and lines are too wide on small images.
        picture = Visualizer(pixels / 2, scale=max(MIN_SIZE / max(pixels.shape), 1.0))
        # The square root of the loss, because few losses are large.
        shades = (losses / losses.amax().clamp(min=1e-6)).sqrt().tolist() if len(losses) else []
        boxes = mined.proposal_boxes.tensor.tolist()
        is_fg = (mined.gt_classes != num_classes).tolist()
        for i in sorted(range(len(boxes)), key=lambda i: shades[i]):  # the hardest on top
            picture.draw_box(
                boxes[i],
                alpha=1.0,
                edge_color=colormaps["plasma"](shades[i]),
                line_style="-" if is_fg[i] else ":",
            )
        for box in objects.tolist():
            picture.draw_box(box, alpha=1.0, edge_color="white")
        pixels = picture.get_output().get_image()
        get_event_storage().put_image("ohem/hard_rois", pixels.transpose(2, 0, 1))
