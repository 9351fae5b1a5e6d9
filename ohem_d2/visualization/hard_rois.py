"""
Draws the RoIs that mining keeps. Needs matplotlib.
"""

from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm

from .panels import draw_box, make_panels, render, show_image

__all__ = ["draw_hard_rois"]

# Longer side of a panel, in pixels.
PANEL_SIZE = 500
MIN_SINGLE_SIZE, MAX_SINGLE_SIZE = 800, 1333


def draw_hard_rois(
    images: Sequence[np.ndarray],
    objects: Sequence[Boxes],
    rois: Sequence[Instances],
    num_classes: int,
    titles: Optional[Sequence[str]] = None,
) -> np.ndarray:
    """
    Draw RoIs colored by their loss, the hardest on top: foreground solid, background dotted.
    Objects are white. Several images are drawn in two columns.

    Args:
        images: RGB, uint8 (H, W, 3).
        objects: boxes of the objects of each image.
        rois: for each image, on the CPU, with the fields "proposal_boxes", "gt_classes", "loss_cls"
            and "loss_box_reg".
        num_classes (int): number of foreground classes K. Background RoIs have the class K.
        titles: a line above each image.

    Returns:
        np.ndarray: the picture in RGB, uint8 (H, W, 3).
    """
    columns = min(len(images), 2)
    rows = -(-len(images) // columns)
    longest = max(max(x.shape[:2]) for x in images)
    size = PANEL_SIZE if columns > 1 else min(max(longest, MIN_SINGLE_SIZE), MAX_SINGLE_SIZE)
    figure, axes = make_panels(rows, columns, images, size, extra_height=0.3 * rows + 0.7)

    # A loss that is NaN is drawn as the hardest.
    losses = [(x.loss_cls + x.loss_box_reg).float().nan_to_num(nan=torch.inf) for x in rois]
    finite = [x for x in torch.cat(losses).tolist() if x < torch.inf]
    # The square root spreads the many small losses.
    colors = ScalarMappable(PowerNorm(0.5, 0, max(finite, default=0) or 1), colormaps["plasma"])

    for i, image in enumerate(images):
        ax = axes.flat[i]
        show_image(ax, image // 2)  # dark, so that the colors stand out
        for box in objects[i].tensor.tolist():
            draw_box(ax, box, "white", linewidth=2.5)
        boxes = rois[i].proposal_boxes.tensor.tolist()
        is_fg = (rois[i].gt_classes < num_classes).tolist()
        edges = colors.to_rgba(losses[i].numpy())
        for j in losses[i].argsort().tolist():  # the hardest last
            style = "solid" if is_fg[j] else (0, (1, 1))
            draw_box(ax, boxes[j], edges[j], linewidth=1.2, linestyle=style)
        if titles is not None:
            ax.set_title(titles[i], fontsize=9)
    figure.colorbar(
        colors,
        ax=axes,
        orientation="horizontal",
        label="RoI loss (solid: foreground, dotted: background)",
        aspect=60,
        shrink=0.7,
    )
    return render(figure)
