"""
The demo's training images with known mistakes in their annotations. Importing this registers
clutter_corrupted_0, ..., one for each seed that benchmarks.find_mistakes has run with:

    python tools/inspect_hard_examples.py --config-file output/find_mistakes/0/config.yaml \\
        --import benchmarks.corrupted_clutter MODEL.WEIGHTS output/find_mistakes/0/model_final.pth
"""

import copy
import os
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from benchmarks.provenance import ROOT
from ohem_d2.data.datasets.clutter import FOLDER

__all__ = ["ANNOTATIONS", "MISTAKES", "OUTPUT", "Mistake", "corrupt_annotations", "register"]

OUTPUT = ROOT / "output/find_mistakes"
ANNOTATIONS = "annotations.json"

MISTAKES = ("deleted", "swapped", "shifted")
# A shifted box moves by these shares of its width and height. Its IoU with where it was is .26 to
# .57, unless the border of the image cuts it.
MIN_SHIFT, MAX_SHIFT = 0.15, 0.35


class Mistake(NamedTuple):
    kind: str  # one of MISTAKES
    file_name: str  # of the image, as in the dataset
    true_box: list[float]  # XYXY in pixels
    annotated_box: Optional[list[float]]  # None if deleted


def corrupt_annotations(
    coco: dict[str, Any], share: float, seed: int
) -> tuple[dict[str, Any], list[Mistake]]:
    """
    Delete boxes, give others another class, and shift others. Crowds do not change.

    Args:
        coco (dict): a dataset in COCO's format, which is not changed.
        share (float): share of the boxes that are deleted, from 0 to 1 / 3. The same number of
            others get another class, and again of others are shifted.
        seed (int): of the random choice.

    Returns:
        (dict, list[Mistake]): the dataset with the mistakes, and the mistakes.
    """
    rng = np.random.default_rng(seed)
    coco = copy.deepcopy(coco)
    images = {x["id"]: x for x in coco["images"]}
    categories = [x["id"] for x in coco["categories"]]
    objects = [x for x in coco["annotations"] if not x.get("iscrowd", 0)]
    count = round(share * len(objects))
    chosen = rng.choice(len(objects), size=(len(MISTAKES), count), replace=False)

    mistakes, deleted = [], set()
    for kind, inds in zip(MISTAKES, chosen, strict=True):
        for annotation in (objects[i] for i in inds):
            image = images[annotation["image_id"]]
            true_box = _to_xyxy(annotation["bbox"])
            if kind == "deleted":
                deleted.add(annotation["id"])
            elif kind == "swapped":
                others = [x for x in categories if x != annotation["category_id"]]
                annotation["category_id"] = int(rng.choice(others))
            else:
                size = (image["width"], image["height"])
                annotation["bbox"] = _shift(annotation["bbox"], size, rng)
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            annotated_box = None if kind == "deleted" else _to_xyxy(annotation["bbox"])
            mistakes.append(Mistake(kind, image["file_name"], true_box, annotated_box))
    coco["annotations"] = [x for x in coco["annotations"] if x["id"] not in deleted]
    return coco, mistakes


def _to_xyxy(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _shift(box: list[float], image_size: tuple[int, int], rng: np.random.Generator) -> list[float]:
    """
    Args:
        box: XYWH.
        image_size: width and height.
    """
    start, size = np.array(box[:2]), np.array(box[2:])
    shift = rng.uniform(MIN_SHIFT, MAX_SHIFT, size=2) * size
    # Towards the side with more room, so that the border cuts off little.
    room = np.array(image_size) - start - size
    shift *= np.where(room >= start, 1, -1)
    end = np.minimum(start + size + shift, image_size)
    start = np.maximum(start + shift, 0)
    return [float(x) for x in (*start, *(end - start))]


def register(folder: Path) -> str:
    """
    Args:
        folder (Path): of one seed, named after it.

    Returns:
        str: the name of the dataset, which replaces one of the same name.
    """
    name = f"clutter_corrupted_{folder.name}"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    images = Path(os.getenv("DETECTRON2_DATASETS", "datasets"), FOLDER, "JPEGImages")
    register_coco_instances(name, {}, str(folder / ANNOTATIONS), str(images))
    return name


for _path in OUTPUT.glob(f"*/{ANNOTATIONS}"):
    register(_path.parent)
