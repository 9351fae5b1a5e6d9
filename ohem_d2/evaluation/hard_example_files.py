"""
Hard examples as a table, and as annotations for a labeling tool.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..utils import atomic_file, write_json
from .hard_examples import MISSED, HardExample

__all__ = ["write_coco_json", "write_csv"]

BOXES = ("roi", "gt_box", "pred_box")


def write_csv(
    path: str | os.PathLike, examples: Iterable[HardExample], class_names: Sequence[str]
) -> None:
    """
    Write a row for each example, in UTF-8: the fields of :class:`HardExample`, a column for each
    coordinate of a box, classes by their names, and the IoU of the predicted box with that of the
    object.
    """
    columns: list[str] = []
    for name in HardExample._fields:
        columns += [f"{name}_{x}" for x in ("x0", "y0", "x1", "y1")] if name in BOXES else [name]
    with atomic_file(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow([*columns, "iou"])
        for example in examples:
            row: list[Any] = []
            for name, value in example._asdict().items():
                if name in BOXES:
                    row += value or [None] * 4
                elif name in ("gt_class", "pred_class"):
                    row.append(None if value is None else class_names[value])
                else:
                    row.append(value)
            writer.writerow([*row, example.iou])


def write_coco_json(
    path: str | os.PathLike,
    examples: Iterable[HardExample],
    records: Mapping[str, dict[str, Any]],
    class_names: Sequence[str],
    image_root: str | os.PathLike,
) -> None:
    """
    Write a dataset in COCO's format with an annotation for each example: what is predicted, or of a
    missed object what is annotated. Its "attributes" say the rest.

    Args:
        examples (Iterable[HardExample]):
        records (Mapping[str, dict]): the images by file name, in detectron2's dataset format.
        class_names (Sequence[str]): of the K classes, which have the ids 1 to K here.
        image_root (str): the folder that the names of files are relative to.
    """
    image_ids: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for example in examples:
        image_id = image_ids.setdefault(example.file_name, len(image_ids) + 1)
        box, category = example.pred_box, example.pred_class
        if example.kind == MISSED and example.gt_box and example.gt_class is not None:
            box, category = example.gt_box, example.gt_class
        x0, y0, x1, y1 = box
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "score": example.score,
                "attributes": {
                    "kind": example.kind,
                    "annotated_class": (
                        "" if example.gt_class is None else class_names[example.gt_class]
                    ),
                    "loss": example.loss,
                },
            }
        )
    write_json(
        path,
        {
            "images": [
                {
                    "id": image_id,
                    "file_name": os.path.relpath(name, image_root),
                    "height": records[name]["height"],
                    "width": records[name]["width"],
                }
                for name, image_id in image_ids.items()
            ],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(class_names)],
        },
    )
