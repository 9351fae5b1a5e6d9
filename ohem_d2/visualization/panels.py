"""
Images side by side in one matplotlib figure, with boxes and labels on them. Works without a
display: pyplot is not used.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

__all__ = ["make_panels", "show_image", "draw_box", "draw_label", "render"]

DPI = 110
MIN_WIDTH = 3.7  # of a panel, in inches: room for its title


def make_panels(
    rows: int, columns: int, images: Sequence[np.ndarray], size: int, extra_height: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """
    Args:
        images: to be shown, (H, W, 3) each.
        size (int): longer side of a panel, in pixels.
        extra_height (float): room for a title or a colorbar, in inches.

    Returns:
        (Figure, np.ndarray): the figure and its Axes, (rows, columns).
    """
    height, width = np.max([x.shape[:2] for x in images], axis=0) * (
        size / DPI / max(max(x.shape[:2]) for x in images)
    )
    figure = Figure(
        figsize=(columns * max(width, MIN_WIDTH), rows * height + extra_height),
        dpi=DPI,
        layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()  # until it shows something
    return figure, axes


def show_image(ax: Axes, image: np.ndarray) -> None:
    ax.set_axis_on()
    ax.imshow(image, interpolation="lanczos")
    ax.set_xticks([])
    ax.set_yticks([])
    # Clip what sticks out of the image.
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(image.shape[0] - 0.5, -0.5)


def draw_box(ax: Axes, box: Sequence[float], color, **style) -> None:
    """
    Args:
        box: x0, y0, x1, y1 in detectron2's coordinates.
        style: options of matplotlib's Rectangle, such as linewidth in points.
    """
    x0, y0, x1, y1 = box
    # Matplotlib centers pixels on whole numbers.
    ax.add_patch(
        Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=color, **style)
    )


def draw_label(ax: Axes, box: Sequence[float], text: str, color) -> None:
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


def render(figure: Figure) -> np.ndarray:
    """
    Returns:
        np.ndarray: the figure in RGB, uint8 (H, W, 3).
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.array(canvas.buffer_rgba())[:, :, :3]
    # Its parts refer to each other, so that it would stay in memory until Python looks for such
    # circles, with the pixels of all pictures that were drawn until then.
    figure.clear()
    del canvas.renderer
    return picture
