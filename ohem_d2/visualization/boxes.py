"""
Draws detections, and RoIs by their label. Needs matplotlib.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances, pairwise_iou

from ohem_d2.evaluation.error_breakdown import VERDICTS, judge_detections

from .panels import draw_box, draw_label, make_panels, show_image

__all__ = ["detect", "draw_detections", "draw_labels", "draw_voting"]

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
    figure, axes = make_panels(len(rows), len(images), images, size=375)
    for row, (name, detections) in zip(axes, rows.items(), strict=True):
        for i, (ax, image, objects, found) in enumerate(
            zip(row, images, targets, detections, strict=True)
        ):
            show_image(ax, image)
            for box in objects.gt_boxes.tensor.tolist():
                draw_box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
            found = found[found.scores >= min_score]
            verdicts = judge_detections(found, objects, NO_BOXES).verdicts.tolist()
            for k, verdict in enumerate(verdicts):
                color = RIGHT_COLOR if VERDICTS[verdict] == "right" else WRONG_COLOR
                box = found.pred_boxes.tensor[k].tolist()
                draw_box(ax, box, color, linewidth=1.4)
                label = f"{class_names[found.pred_classes[k]]} {found.scores[k]:.0%}"
                draw_label(ax, box, label, color)
            if i == 0:
                ax.set_ylabel(name, fontsize=11)
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
    figure, axes = make_panels(1, len(panels), [image], size=460, extra_height=0.3)
    for ax, (title, (objects, regions, foreground, background)) in zip(
        axes[0], panels.items(), strict=True
    ):
        show_image(ax, image // 2)  # darker, so that the colors are seen
        for box in regions.tensor.tolist():
            draw_box(ax, box, GROUND_TRUTH_COLOR, linewidth=1.5, linestyle="dashed", hatch="//")
        for box in objects.tensor.tolist():
            draw_box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
        for boxes, color in ((background, BACKGROUND_COLOR), (foreground, RIGHT_COLOR)):
            for box in boxes.tensor.tolist():
                draw_box(ax, box, color, linewidth=1.2)
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
    figure, axes = make_panels(len(images), len(columns), images, size=460, extra_height=0.3)
    for row, image, objects, *boxes_of_row in zip(
        axes, images, targets, *columns.values(), strict=True
    ):
        for ax, found in zip(row, boxes_of_row, strict=True):
            show_image(ax, image // 2)  # darker, so that the colors are seen
            for box in objects.gt_boxes.tensor.tolist():
                draw_box(ax, box, GROUND_TRUTH_COLOR, linewidth=2.5)
            found = found[found.scores >= min_score]
            iou = pairwise_iou(found.pred_boxes, objects.gt_boxes).max(dim=1).values.tolist()
            is_crowded = len(found) > 3 * len(objects)
            for box, overlap in zip(found.pred_boxes.tensor.tolist(), iou, strict=True):
                if is_crowded:
                    draw_box(
                        ax, box, f"{VOTER_COLOR}50", linewidth=1
                    )  # where many are, it is bright
                else:
                    draw_box(ax, box, VOTER_COLOR, linewidth=1.8)
                    draw_label(ax, box, f"IoU {overlap:.2f}", VOTER_COLOR)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize=10)
    figure.savefig(path, pil_kwargs={"quality": 90})
