"""
A page of hard examples: a grid of crops, and the whole image of each.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..evaluation.hard_examples import KINDS, HardExample
from .page import write_page
from .picture_files import read_picture, write_jpeg

__all__ = ["write_inspection"]

# Of the longer side, in pixels. Larger pictures are shrunk.
MAX_CROP_SIZE, MAX_IMAGE_SIZE = 240, 1024
MARGIN = 0.4  # around the boxes of a crop, relative to their longer side
MIN_MARGIN = 8  # pixels


def write_inspection(
    folder: Path,
    examples: Sequence[HardExample],
    records: Mapping[str, dict[str, Any]],
    class_names: Sequence[str],
    image_root: str,
    num_found: Mapping[str, int],
    broken: Sequence[str],
    title: str,
    description: Mapping[str, str],
    advance: Callable[[], object],
) -> None:
    """
    Write index.html and its pictures, in crops/ and images/. Existing pictures, of an interrupted
    run, are kept.

    Args:
        folder (Path): where to write.
        examples (Sequence[HardExample]): sorted by kind, the hardest first.
        records (Mapping[str, dict]): images by file name, in detectron2's dataset format.
        class_names (Sequence[str]): names of the foreground classes.
        image_root (str): the folder that file names on the page are relative to.
        num_found (Mapping[str, int]): how many examples of each kind there are, with those that are
            not shown.
        broken (Sequence[str]): what is wrong with each image that cannot be read.
        title (str): title of the page.
        description (Mapping[str, str]): how it was made.
        advance (Callable): called after each image.
    """
    for name in ("crops", "images"):
        (folder / name).mkdir(exist_ok=True)
    of_image: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        of_image.setdefault(example.file_name, []).append(i)

    images: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = [{} for _ in examples]
    for number, (file_name, inds) in enumerate(of_image.items()):
        record = records[file_name]
        width, height = record["width"], record["height"]
        crops = {i: _crop_box(examples[i], width, height) for i in inds}
        picture = f"images/{number:06d}.jpg"
        _write_pictures(
            file_name,
            {folder / picture: ((0, 0, width, height), MAX_IMAGE_SIZE)}
            | {folder / _crop_name(i): (x, MAX_CROP_SIZE) for i, x in crops.items()},
        )
        images.append(
            {
                "name": os.path.relpath(file_name, image_root),
                "picture": picture,
                "size": [width, height],
                "objects": [_to_object(x) for x in record["annotations"]],
            }
        )
        for i in inds:
            shown[i] = _to_shown(examples[i], number, _crop_name(i), crops[i])
        advance()
    write_page(
        folder / "index.html",
        "inspection.html",
        title=title,
        description=description,
        broken=broken,
        data={
            "kinds": KINDS,
            "found": [num_found[x] for x in KINDS],
            "classes": class_names,
            "images": images,
            "examples": shown,
        },
    )


def _crop_name(i: int) -> str:
    return f"crops/{i:06d}.jpg"


def _crop_box(example: HardExample, width: int, height: int) -> tuple[int, int, int, int]:
    """
    Returns:
        x0, y0, x1, y1 in whole pixels: the example's boxes with a margin, clipped to the image.
    """
    boxes = np.array([x for x in (example.roi, example.gt_box, example.pred_box) if x])
    start, end = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = max(MARGIN * (end - start).max(), MIN_MARGIN)
    x0, y0 = np.maximum(np.floor(start - margin), 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(end + margin), [width, height]).astype(int).tolist()
    return x0, y0, x1, y1


def _write_pictures(
    file_name: str, pictures: Mapping[Path, tuple[tuple[int, int, int, int], int]]
) -> None:
    """
    Args:
        file_name (str): the image.
        pictures: for each JPEG to write, the part of the image and its maximal size.
    """
    missing = {path: x for path, x in pictures.items() if not path.exists()}
    if not missing:
        return
    image = read_picture(file_name)
    for path, (box, max_size) in missing.items():
        write_jpeg(path, image.crop(box), max_size)


def _to_object(annotation: dict[str, Any]) -> dict[str, Any]:
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return {
        "box": _rounded(box),
        "class": annotation["category_id"],
        "ignored": bool(annotation.get("iscrowd", 0)),
    }


def _to_shown(
    example: HardExample, image: int, picture: str, crop: tuple[int, int, int, int]
) -> dict[str, Any]:
    return {
        "kind": KINDS.index(example.kind),
        "image": image,
        "picture": picture,
        "crop": crop,
        "roi": _rounded(example.roi),
        "gtClass": example.gt_class,
        "gtBox": example.gt_box and _rounded(example.gt_box),
        "predClass": example.pred_class,
        "predBox": _rounded(example.pred_box),
        "iou": example.iou,
        "score": example.score,
        "loss": example.loss,
        "parts": [example.loss_objectness, example.loss_class, example.loss_box_reg],
    }


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(float(x), 1) for x in box]
