"""
Mistakes that are put into a dataset's annotations on purpose, and known.
"""

import copy
from typing import Any, NamedTuple, Optional

import numpy as np

__all__ = ["MISTAKES", "Mistake", "corrupt_annotations"]

MISTAKES = ("deleted", "swapped", "shifted")
# By what part of its width and height a shifted box is moved: the IoU with where it was is .26 to
# .57, if the image's border does not cut it.
MIN_SHIFT, MAX_SHIFT = 0.15, 0.35


class Mistake(NamedTuple):
    kind: str  # one of MISTAKES
    file_name: str  # of the image, as in the dataset
    true_box: list[float]  # XYXY in pixels
    annotated_box: Optional[list[float]]  # None: deleted


def corrupt_annotations(
    coco: dict[str, Any], share: float, seed: int
) -> tuple[dict[str, Any], list[Mistake]]:
    """
    Delete boxes, give others the label of another class, and shift others. Crowds stay as they are.

    Args:
        coco (dict): a dataset in COCO's format. It is not changed.
        share (float): of the boxes that are deleted, from 0 to 1 / 3. As many others are swapped,
            and as many shifted.
        seed (int): the same one gives the same mistakes.

    Returns:
        (dict, list[Mistake]): the dataset with the mistakes, and these.
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
    # Towards the side on which there is more room, so that little of it is cut off.
    room = np.array(image_size) - start - size
    shift *= np.where(room >= start, 1, -1)
    end = np.minimum(start + size + shift, image_size)
    start = np.maximum(start + shift, 0)
    return [float(x) for x in (*start, *(end - start))]
