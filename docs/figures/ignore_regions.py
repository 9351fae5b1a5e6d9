#!/usr/bin/env python3
"""
Draw the labels of the RoIs on a difficult object for each value of DATASETS.DIFFICULT: the picture
of docs/ignore_regions.md.

    python tools/make_clutter.py
    python docs/figures/ignore_regions.py docs/ignore_regions.jpg
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_ioa
from PIL import Image

from ohem_d2 import add_ohem_config
from ohem_d2.data import IgnoreRegionsMapper, handle_difficult_objects
from ohem_d2.data.datasets.clutter import CLASS_NAMES
from ohem_d2.data.difficult import PRACTICES
from ohem_d2.data.selective_search import selective_search
from ohem_d2.modeling.roi_heads import label_rois
from ohem_d2.modeling.roi_heads.ignore_regions import DEFAULT_IOA_THRESH
from ohem_d2.visualization.panels import draw_box, make_panels, render, show_image

DATASET = "clutter_voc_train"
PANEL_SIZE = 460  # longer side, in pixels
FOREGROUND_COLOR, BACKGROUND_COLOR = "#2ecc40", "#ff851b"


def draw_labels(
    image: np.ndarray, panels: dict[str, tuple[Boxes, Boxes, Boxes, Boxes]]
) -> np.ndarray:
    """
    Draw the labels of RoIs, a panel for each way to label them: foreground green, background
    orange. Objects are white, ignore regions hatched.

    Args:
        image: RGB, uint8 (H, W, 3).
        panels: by title, the boxes of objects, ignore regions, background and foreground.

    Returns:
        np.ndarray: the picture in RGB, uint8 (H, W, 3).
    """
    figure, axes = make_panels(1, len(panels), [image], PANEL_SIZE, extra_height=0.3)
    styles = [
        {"color": "white", "linewidth": 2.5},
        {"color": "white", "linewidth": 1.5, "linestyle": "dashed", "hatch": "//"},
        {"color": BACKGROUND_COLOR, "linewidth": 1.2},
        {"color": FOREGROUND_COLOR, "linewidth": 1.2},
    ]
    for ax, (title, boxes) in zip(axes[0], panels.items(), strict=True):
        show_image(ax, image // 2)  # dark, so that the colors stand out
        for boxes_of_kind, style in zip(boxes, styles, strict=True):
            for box in boxes_of_kind.tensor.tolist():
                draw_box(ax, box, **style)
        ax.set_title(title, fontsize=9)
    return render(figure)


def difficult_boxes(record: dict) -> Boxes:
    (record,) = handle_difficult_objects([record], [DATASET], "ignore")
    boxes = [x["bbox"] for x in record["annotations"] if x.get("iscrowd", 0)]
    return Boxes(torch.tensor(boxes).reshape(-1, 4))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the picture to write, a .jpg")
    args = parser.parse_args()

    # The image with the largest difficult object and another object.
    records = [x for x in DatasetCatalog.get(DATASET) if len(x["annotations"]) > 1]
    record = max(records, key=lambda x: difficult_boxes(x).area().sum())
    difficult = difficult_boxes(record)
    image = read_image(record["file_name"], format="BGR")
    rois = Boxes(torch.from_numpy(selective_search(image, "quality")))
    proposals = Instances(image.shape[:2], proposal_boxes=rois)

    cfg = get_cfg()
    add_ohem_config(cfg)
    mapper = IgnoreRegionsMapper(cfg, is_train=True, augmentations=[])
    panels = {}
    for practice in PRACTICES:
        (handled,) = handle_difficult_objects([record], [DATASET], practice)
        targets = mapper(handled)["instances"]
        (labeled,) = label_rois(
            [proposals],
            [targets],
            Matcher([0.5], [0, 1]),
            len(CLASS_NAMES),
            ignore_ioa_thresh=DEFAULT_IOA_THRESH,
        )
        # Only RoIs on the difficult object: the others are the same in all panels.
        on_it = (pairwise_ioa(difficult, labeled.proposal_boxes) > 0.7).any(dim=0)
        labeled = labeled[on_it]
        is_fg = labeled.gt_classes < len(CLASS_NAMES)
        counts = f"{int(is_fg.sum())} foreground, {int((~is_fg).sum())} background"
        panels[f'"{practice}": {counts}'] = (
            targets.gt_boxes,
            targets.ignore_boxes,
            labeled.proposal_boxes[~is_fg],
            labeled.proposal_boxes[is_fg],
        )
    Image.fromarray(draw_labels(image[:, :, ::-1], panels)).save(args.output, quality=90)
    print(f"{args.output}: RoIs of {record['file_name']}")


if __name__ == "__main__":
    main()
