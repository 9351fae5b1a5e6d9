"""
Draws detections of several models. Needs matplotlib.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ..evaluation.error_breakdown import VERDICTS, judge_detections
from .panels import draw_box, draw_label, make_panels, render, show_image

__all__ = ["draw_detections"]

PANEL_SIZE = 410  # longer side, in pixels
RIGHT_COLOR, WRONG_COLOR = "#2ecc40", "#ff4136"


def draw_detections(
    images: Sequence[np.ndarray],
    targets: Sequence[Instances],
    detections: dict[str, Sequence[Instances]],
    class_names: Sequence[str],
    min_scores: Mapping[str, float],
) -> np.ndarray:
    """
    Draw a column for each image and a row for each model. Objects are white. A detection is right
    (green) if its IoU with a not yet detected object of its class is at least .5, else red.

    Args:
        images: RGB, uint8 (H, W, 3).
        targets: the objects of each image.
        detections: for each model, by its name, the detections on each image, on the CPU.
        class_names: names of the classes.
        min_scores: for each model, detections with a lower score are not drawn.

    Returns:
        np.ndarray: the picture in RGB, uint8 (H, W, 3).
    """
    figure, axes = make_panels(len(detections), len(images), images, PANEL_SIZE)
    no_regions = Boxes(torch.zeros(0, 4))
    for row, (name, found_by_model) in zip(axes, detections.items(), strict=True):
        for ax, image, objects, found in zip(row, images, targets, found_by_model, strict=True):
            show_image(ax, image)
            for box in objects.gt_boxes.tensor.tolist():
                draw_box(ax, box, "white", linewidth=2.5)
            found = found[found.scores >= min_scores[name]]
            verdicts = judge_detections(found, objects, no_regions).verdicts.tolist()
            for i, verdict in enumerate(verdicts):
                color = RIGHT_COLOR if VERDICTS[verdict] == "right" else WRONG_COLOR
                box = found.pred_boxes.tensor[i].tolist()
                draw_box(ax, box, color, linewidth=1.4)
                label = f"{class_names[found.pred_classes[i]]} {found.scores[i]:.0%}"
                draw_label(ax, box, label, color)
        row[0].set_ylabel(f"{name}\nscore of at least {min_scores[name]:.2f}", fontsize=11)
    return render(figure)
