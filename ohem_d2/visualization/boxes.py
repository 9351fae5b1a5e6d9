"""
Boxes drawn on images: detections, and RoIs colored by their loss.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances, pairwise_iou
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ohem_d2.evaluation import features_and_rois
from ohem_d2.evaluation.error_breakdown import VERDICTS, judge_detections

__all__ = [
    "detect",
    "draw_detections",
    "draw_hard_rois",
    "draw_labels",
    "draw_voting",
    "find_hard_rois",
]

GROUND_TRUTH_COLOR, RIGHT_COLOR, WRONG_COLOR = "white", "#2ecc40", "#ff4136"
BACKGROUND_COLOR = "#ff851b"
VOTER_COLOR = "#ffdc00"
NO_BOXES = Boxes(torch.zeros(0, 4))


@torch.no_grad()
def detect(model: GeneralizedRCNN, inputs: dict) -> Instances:
    """
    Args:
        model (GeneralizedRCNN): in evaluation mode.
        inputs (dict): one image in detectron2's standard format.

    Returns:
        Instances: the detections, on the CPU, in coordinates of `inputs["image"]`.
    """
    height, width = inputs["image"].shape[1:]
    (outputs,) = model([{"image": inputs["image"], "height": height, "width": width}])
    return outputs["instances"].to("cpu")


@torch.no_grad()
def find_hard_rois(model: GeneralizedRCNN, inputs: dict) -> tuple[Instances, int]:
    """
    Args:
        model (GeneralizedRCNN): with :class:`OHEMROIHeads`, in evaluation mode.
        inputs (dict): one image in detectron2's standard format, with "instances".

    Returns:
        (Instances, int): the RoIs that mining keeps, on the CPU with their loss in the field
        "loss"; and the number of all RoIs.
    """
    features, rois = features_and_rois(model, [inputs])
    rois = model.roi_heads.compute_roi_losses(features, rois)
    (mined,) = model.roi_heads.select_hard_rois(rois)
    mined.loss = mined.loss_cls + mined.loss_box_reg
    return mined.to("cpu"), len(rois[0])


def draw_detections(
    path: Path,
    images: Sequence[np.ndarray],
    targets: Sequence[Instances],
    rows: dict[str, Sequence[Instances]],
    class_names: Sequence[str],
    min_score: float = 0.3,
) -> None:
    """
    Draw a grid: a column for each image, a row for each model. A detection is right if it has an
    IoU of at least .5 with an object of its class that has none yet.

    Args:
        path (Path): the picture to write, a JPEG.
        images: RGB images (H, W, 3) of uint8.
        targets: the objects of each image.
        rows: the detections of each image, by the name of the model.
        class_names: names of the classes.
        min_score (float): detections with a lower score are not drawn.
    """
    figure = _grid(len(rows), len(images), images[0].shape, width=3.4)
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for row, (name, detections) in zip(axes, rows.items(), strict=True):
        for i, (ax, image, objects, found) in enumerate(
            zip(row, images, targets, detections, strict=True)
        ):
            _show(ax, image)
            for box in objects.gt_boxes.tensor.tolist():
                _box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
            found = found[found.scores >= min_score]
            verdicts = judge_detections(found, objects, NO_BOXES).verdicts.tolist()
            for k, verdict in enumerate(verdicts):
                color = RIGHT_COLOR if VERDICTS[verdict] == "right" else WRONG_COLOR
                box = found.pred_boxes.tensor[k].tolist()
                _box(ax, box, color, linewidth=1.4)
                label = f"{class_names[found.pred_classes[k]]} {found.scores[k]:.0%}"
                _label(ax, box, label, color)
            if i == 0:
                ax.set_ylabel(name, fontsize=11)
    figure.savefig(path, pil_kwargs={"quality": 90})


def draw_hard_rois(
    path: Path,
    images: Sequence[np.ndarray],
    targets: Sequence[Instances],
    rois: Sequence[tuple[Instances, int]],
    num_classes: int,
) -> None:
    """
    Draw the RoIs that mining kept, colored by their loss: solid where they are foreground, dotted
    where they are background.

    Args:
        path (Path): the picture to write, a JPEG.
        images: RGB images (H, W, 3) of uint8.
        targets: the objects of each image, drawn in white.
        rois: from :func:`find_hard_rois`, for each image.
        num_classes (int): number of foreground classes.
    """
    columns = 2
    rows = -(-len(images) // columns)
    figure = _grid(rows, columns, images[0].shape, width=4.6, extra_height=0.3 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False)
    largest = max(float(mined.loss.max()) for mined, _ in rois)
    # The square root of the loss, because few losses are large.
    colors = ScalarMappable(PowerNorm(0.5, 0, largest), colormaps["plasma"])
    for ax in axes.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image, objects, (mined, num_seen) in zip(
        axes.flat[: len(images)], images, targets, rois, strict=True
    ):
        _show(ax, image // 2)  # darker, so that the colors are seen
        for box in objects.gt_boxes.tensor.tolist():
            _box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
        is_fg = mined.gt_classes < num_classes
        edges = colors.to_rgba(mined.loss.numpy())
        for i in mined.loss.argsort().tolist():  # the hardest on top
            _box(
                ax,
                mined.proposal_boxes.tensor[i].tolist(),
                edges[i],
                linewidth=1.2,
                linestyle="solid" if is_fg[i] else (0, (1, 1)),
            )
        fg = int(is_fg.sum())
        ax.set_title(
            f"{len(mined)} of {num_seen} RoIs are kept: "
            f"{fg} foreground, {len(mined) - fg} background",
            fontsize=9,
        )
    figure.colorbar(
        colors,
        ax=axes,
        orientation="horizontal",
        label="loss of the RoI (solid: foreground, dotted: background)",
        aspect=60,
        shrink=0.7,
    )
    figure.savefig(path, pil_kwargs={"quality": 90})


def draw_labels(
    path: Path, image: np.ndarray, panels: dict[str, tuple[Boxes, Boxes, Boxes, Boxes]]
) -> None:
    """
    Draw what RoIs of one image are, side by side for several ways to label them: foreground green,
    background orange. Objects are white, ignore regions hatched.

    Args:
        path (Path): the picture to write, a JPEG.
        image: RGB image (H, W, 3) of uint8.
        panels: by title, the boxes of the objects, the regions, the foreground and the background.
    """
    figure = _grid(1, len(panels), image.shape, width=4.2, extra_height=0.3)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, (objects, regions, foreground, background)) in zip(
        axes, panels.items(), strict=True
    ):
        _show(ax, image // 2)  # darker, so that the colors are seen
        for box in regions.tensor.tolist():
            _box(ax, box, GROUND_TRUTH_COLOR, linewidth=1.5, linestyle="dashed", hatch="//")
        for box in objects.tensor.tolist():
            _box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
        for boxes, color in ((background, BACKGROUND_COLOR), (foreground, RIGHT_COLOR)):
            for box in boxes.tensor.tolist():
                _box(ax, box, color, linewidth=1.2)
        ax.set_title(title, fontsize=9)
    figure.savefig(path, pil_kwargs={"quality": 90})


def draw_voting(
    path: Path,
    images: Sequence[np.ndarray],
    targets: Sequence[Instances],
    columns: dict[str, Sequence[Instances]],
    min_score: float = 0.5,
) -> None:
    """
    Draw a grid: a row for each image, a column for each set of boxes. Where there are no more boxes
    than some for each object, they have their IoU with the nearest object beside them.

    Args:
        path (Path): the picture to write, a JPEG.
        images: RGB images (H, W, 3) of uint8.
        targets: the objects of each image, drawn in white.
        columns: by title the boxes of each image, with scores.
        min_score (float): boxes with a lower score are not drawn.
    """
    figure = _grid(len(images), len(columns), images[0].shape, width=4.2, extra_height=0.3)
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for row, image, objects, *boxes_of_row in zip(
        axes, images, targets, *columns.values(), strict=True
    ):
        for ax, found in zip(row, boxes_of_row, strict=True):
            _show(ax, image // 2)  # darker, so that the colors are seen
            for box in objects.gt_boxes.tensor.tolist():
                _box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
            found = found[found.scores >= min_score]
            iou = pairwise_iou(found.pred_boxes, objects.gt_boxes).max(dim=1).values.tolist()
            is_crowded = len(found) > 3 * len(objects)
            for box, overlap in zip(found.pred_boxes.tensor.tolist(), iou, strict=True):
                if is_crowded:
                    _box(ax, box, f"{VOTER_COLOR}50", linewidth=1)  # where many are, it is bright
                else:
                    _box(ax, box, VOTER_COLOR, linewidth=1.8)
                    _label(ax, box, f"IoU {overlap:.2f}", VOTER_COLOR)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize=10)
    figure.savefig(path, pil_kwargs={"quality": 90})


def _grid(
    rows: int, columns: int, image_shape: tuple, width: float, extra_height: float = 0.0
) -> Figure:
    """
    A figure for images of a `width` in inches.
    """
    height = width * image_shape[0] / image_shape[1]
    return Figure(
        figsize=(columns * width, rows * height + extra_height), dpi=110, layout="constrained"
    )


def _show(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, interpolation="lanczos")
    ax.set_xticks([])
    ax.set_yticks([])
    # What sticks out of the image is cut off.
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(image.shape[0] - 0.5, -0.5)


def _box(
    ax: Axes, box: list[float], color, linewidth: float, linestyle="solid", hatch=None
) -> None:
    x0, y0, x1, y1 = box
    ax.add_patch(
        Rectangle(
            (x0 - 0.5, y0 - 0.5),  # matplotlib has pixels around whole numbers
            x1 - x0,
            y1 - y0,
            fill=False,
            edgecolor=color,
            linewidth=linewidth,
            linestyle=linestyle,
            hatch=hatch,
        )
    )


def _label(ax: Axes, box: list[float], text: str, color) -> None:
    ax.text(
        box[0],
        max(box[1] - 1, 8),
        text,
        fontsize=7,
        color="black",
        clip_on=True,
        va="bottom",
        bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )
