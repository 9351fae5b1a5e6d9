#!/usr/bin/env python3
"""
Draw the picture of docs/test_time.md: a detector's boxes, its boxes from all scales and rounds of
regression, and its detections after NMS and voting.

    python docs/figures/test_time.py --config-file configs/demo/faster_rcnn_R_18_ohem.yaml \
        --weights output/demo/faster_rcnn_R_18_ohem/model_final.pth docs/test_time.jpg
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Boxes, Instances, pairwise_iou
from PIL import Image

from ohem_d2.checkpoint import load_model
from ohem_d2.data import get_annotated_dicts
from ohem_d2.engine import InputError, check_inputs, fall_back_to_cpu, load_config
from ohem_d2.modeling import GeneralizedRCNNWithTTA
from ohem_d2.visualization.panels import draw_box, draw_label, make_panels, render, show_image

ENABLED = ("TEST.AUG", "TEST.ITERATIVE_BBOX", "TEST.BOX_VOTING")
PANEL_SIZE = 460  # longer side, in pixels
VOTER_COLOR = "#ffdc00"


def draw_voting(
    images: Sequence[np.ndarray],
    targets: Sequence[Instances],
    columns: dict[str, Sequence[Instances]],
    min_score: float = 0.5,
) -> np.ndarray:
    """
    Draw a row for each image and a column for each set of boxes. A few boxes are labeled with their
    IoU with the nearest object. Objects are white.

    Args:
        images: RGB, uint8 (H, W, 3).
        targets: the objects of each image.
        columns: for each title, the boxes on each image, with scores.
        min_score (float): boxes with a lower score are not drawn.

    Returns:
        np.ndarray: the picture in RGB, uint8 (H, W, 3).
    """
    figure, axes = make_panels(len(images), len(columns), images, PANEL_SIZE, extra_height=0.3)
    for row, image, objects, *found_on_image in zip(
        axes, images, targets, *columns.values(), strict=True
    ):
        for ax, found in zip(row, found_on_image, strict=True):
            show_image(ax, image // 2)  # dark, so that the colors stand out
            for box in objects.gt_boxes.tensor.tolist():
                draw_box(ax, box, "white", linewidth=2.5)
            found = found[found.scores >= min_score]
            iou = pairwise_iou(found.pred_boxes, objects.gt_boxes).max(dim=1).values.tolist()
            is_crowded = len(found) > 3 * len(objects)
            for box, overlap in zip(found.pred_boxes.tensor.tolist(), iou, strict=True):
                if is_crowded:  # transparent: bright where many boxes overlap
                    draw_box(ax, box, f"{VOTER_COLOR}50", linewidth=1)
                else:
                    draw_box(ax, box, VOTER_COLOR, linewidth=1.8)
                    draw_label(ax, box, f"IoU {overlap:.2f}", VOTER_COLOR)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize=10)
    return render(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[4, 5], help="indices in the test set"
    )
    parser.add_argument("output", type=Path, help="the .jpg to write")
    parser.add_argument("opts", nargs="*", help="config options")
    args = parser.parse_args()
    opts = [x for key in ENABLED for x in (f"{key}.ENABLED", "True")]
    opts += ["MODEL.WEIGHTS", args.weights, *args.opts]
    try:
        cfg = load_config(args.config_file, opts)
        fall_back_to_cpu(cfg)
        check_inputs(cfg, eval_only=True)
        model = load_model(cfg)
    except InputError as e:
        sys.exit(f"test_time.py: {e}")

    records = get_annotated_dicts(cfg, cfg.DATASETS.TEST[:1], is_train=False)
    resized = DatasetMapper(cfg, is_train=False)
    # is_train, because the mapper would drop the annotations otherwise.
    not_resized = DatasetMapper(cfg, is_train=True, augmentations=[])
    augmented = GeneralizedRCNNWithTTA(cfg, model)
    images, targets = [], []
    plain_boxes, all_boxes, merged_boxes = [], [], []
    for i in args.images:
        inputs = not_resized(records[i])
        images.append(convert_image_to_rgb(inputs["image"].permute(1, 2, 0), cfg.INPUT.FORMAT))
        targets.append(inputs["instances"])
        with torch.no_grad():
            plain, *_ = model([resized(records[i])])
            merged, *_ = augmented([inputs])
            boxes, scores, _ = augmented._get_augmented_boxes(
                *augmented._get_augmented_inputs(inputs)
            )
        plain_boxes.append(plain["instances"].to("cpu"))
        all_boxes.append(
            Instances(images[-1].shape[:2], pred_boxes=Boxes(boxes), scores=scores).to("cpu")
        )
        merged_boxes.append(merged["instances"].to("cpu"))
    columns = {
        "plain model": plain_boxes,
        "boxes from all scales and rounds": all_boxes,
        "after NMS and voting": merged_boxes,
    }
    Image.fromarray(draw_voting(images, targets, columns)).save(args.output, quality=90)
    print(args.output)


if __name__ == "__main__":
    main()
