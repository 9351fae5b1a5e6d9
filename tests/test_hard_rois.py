"""
The picture of hard RoIs, by its pixels.
"""

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib import colormaps

from ohem_d2.visualization.hard_rois import draw_hard_rois

NUM_CLASSES = 3
HEIGHT, WIDTH = 300, 400
COLOR = np.array([40, 160, 120], np.uint8)  # of the image; the figure around it is gray
NO_BOXES = Boxes(torch.zeros(0, 4))


def make_rois(boxes, classes, losses):
    return Instances(
        (HEIGHT, WIDTH),
        proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        loss_cls=torch.tensor(losses) / 4,
        loss_box_reg=torch.tensor(losses) * 3 / 4,
    )


def draw(objects, rois, shape=(HEIGHT, WIDTH)):
    """
    Returns:
        np.ndarray: what is drawn of an image, in float RGB, without the space around it.
    """
    image = np.tile(COLOR, (*shape, 1))
    picture = draw_hard_rois([image], [objects], [rois], NUM_CLASSES)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    rows, columns = np.nonzero((picture == COLOR // 2).all(2))
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)


def extent(panel, color):
    """
    The box (x0, y0, x1, y1), in coordinates of the image, of the pixels of a color.
    """
    rows, columns = np.nonzero(np.abs(panel - color).max(2) < 30)
    scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]) / np.tile(panel.shape[1::-1], 2)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * scale


def plasma(loss):
    return np.array(colormaps["plasma"](loss**0.5)[:3]) * 255


def test_boxes_have_the_color_of_their_loss():
    boxes = [[20, 30, 80, 270], [120, 30, 180, 270], [320, 30, 380, 270]]
    rois = make_rois(boxes, [0, 1, 2], [1.0, 0.25, 0.04])
    panel = draw(Boxes([[220.0, 50, 290, 240]]), rois)
    for box, loss in zip(boxes, (1.0, 0.25, 0.04), strict=True):
        assert extent(panel, plasma(loss)) == pytest.approx(np.array(box), abs=3), loss
    assert extent(panel, 255) == pytest.approx(np.array([220, 50, 290, 240]), abs=3)


def test_foreground_is_solid_and_background_dotted():
    rois = make_rois([[20, 30, 80, 270], [120, 30, 180, 270]], [0, NUM_CLASSES], [1.0, 1.0])
    panel = draw(NO_BOXES, rois)
    scale = panel.shape[1] / WIDTH
    rows = slice(round(60 * scale), round(240 * scale))
    for x, is_solid in ((20, True), (120, False)):
        strip = panel[rows, round((x - 3) * scale) : round((x + 3) * scale)]
        is_edge = (np.abs(strip - plasma(1)).max(2) < 60).any(1)
        assert is_edge.any() and is_edge.all() == is_solid, x


@pytest.mark.parametrize("hardest", [1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("order", [1, -1])
def test_the_hardest_is_on_top(hardest, order):
    boxes = [[20, 30, 380, 270]] * 2
    panel = draw(NO_BOXES, make_rois(boxes, [0, 0], [0.5, hardest][::order]))
    assert extent(panel, plasma(1)) == pytest.approx(np.array(boxes[0]), abs=3)
    assert np.abs(panel - plasma(0.5)).max(2).min() > 40


@pytest.mark.parametrize("shape", [(120, 160), (800, 1333), (1333, 200)])
def test_nothing_to_draw(shape):
    panel = draw(NO_BOXES, make_rois([], [], []), shape)
    assert (panel == COLOR // 2).all()
    assert 700 < max(panel.shape) < 1400
    assert panel.shape[0] / panel.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)


def test_panels_of_several_images():
    """
    In two columns, one scale of colors, a title each.
    """
    images = [np.full(x, 120, np.uint8) for x in ((90, 160, 3), (160, 90, 3), (90, 160, 3))]
    rois = [make_rois([[10, 10, 60, 60]], [0], [x]) for x in (1.0, 0.25, 0.0)]
    pictures = [
        draw_hard_rois(images, [NO_BOXES] * 3, rois, NUM_CLASSES, titles).astype(float)
        for titles in (None, ["a", "b", "c"])
    ]
    height, width = pictures[0].shape[:2]
    for column, loss in ((slice(width // 2), 1.0), (slice(width // 2, width), 0.25)):
        panel = pictures[0][: height // 3, column]
        assert np.abs(panel - plasma(loss)).max(2).min() < 20
    titled = (np.abs(pictures[0] - pictures[1]).max(2) > 0).any(axis=1)
    assert titled[: height // 2].any() and titled[height // 3 :].any()


def test_pictures_do_not_stay_in_memory():
    rois = make_rois([[10, 10, 60, 60]] * 40, [0] * 40, [1.0] * 40)
    draw(NO_BOXES, rois)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(8):
            draw(NO_BOXES, rois)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    # Less than the pixels of three of the eight, 725 x 800 of 4 bytes. What is left is small.
    assert after - before < 3 * 725 * 800 * 4
