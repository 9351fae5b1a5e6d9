"""
Datasets in the layout of PASCAL VOC: ImageSets/Main/SPLIT.txt, Annotations/ID.xml and
JPEGImages/ID.jpg, or an image of the same name in another format.
"""

import glob
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional
from xml.etree import ElementTree

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ...utils import InputError
from ...utils.did_you_mean import did_you_mean

__all__ = [
    "VOCAnnotations",
    "VOCObject",
    "annotations_file",
    "find_image",
    "image_set_file",
    "is_voc",
    "load_voc_image",
    "load_voc_instances",
    "read_annotations",
    "read_image_set",
]

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VOCObject(NamedTuple):
    name: str
    box: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: as in the file, from 1
    difficult: bool


class VOCAnnotations(NamedTuple):
    size: Optional[tuple[int, int]]  # height and width, if the file has them
    objects: list[VOCObject]


def is_voc(dataset: str) -> bool:
    """
    Returns:
        bool: whether a registered dataset has this layout, by its metadata.
    """
    metadata = MetadataCatalog.get(dataset)
    has_layout = metadata.get("split") and metadata.get("dirname")
    return bool(has_layout and not metadata.get("json_file"))


def image_set_file(folder: str | os.PathLike, split: str) -> Path:
    return Path(folder, "ImageSets", "Main", f"{split}.txt")


def annotations_file(folder: str | os.PathLike, image_id: str) -> Path:
    return Path(folder, "Annotations", f"{image_id}.xml")


def read_image_set(folder: str | os.PathLike, split: str) -> list[str]:
    """
    Returns:
        list[str]: the ids of its images.

    Raises:
        InputError: if it is missing or empty, or has an image twice.
    """
    path = image_set_file(folder, split)
    try:
        with PathManager.open(str(path)) as f:
            image_ids = f.read().split()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    if not image_ids:
        raise InputError(f"{path} is empty: it needs the id of an image on each line.")
    if len(set(image_ids)) < len(image_ids):
        twice = next(x for x in image_ids if image_ids.count(x) > 1)
        raise InputError(f"{path} has the image {twice} more than once.")
    return image_ids


def read_annotations(path: str | os.PathLike) -> VOCAnnotations:
    """
    Args:
        path (str): an XML file of Annotations.

    Raises:
        InputError: if it is missing or broken, or an object lacks a name or a box of four finite
            numbers, with the minima first, or `difficult` is not 0 or 1. Without it, objects are
            not difficult.
    """
    try:
        with PathManager.open(str(path)) as f:
            root = ElementTree.parse(f)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}") from e
    except (ElementTree.ParseError, UnicodeDecodeError) as e:
        raise InputError(f"{path} is not an XML file: {e}") from e
    objects = []
    for i, element in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_to_object(element))
        except ValueError as e:
            raise InputError(f"{path}: object {i} {e}.") from e
    try:
        size = root.find("size")
        sides = None if size is None else [int(size.findtext(x, "")) for x in ("height", "width")]
    except ValueError:
        sides = [0]
    if sides is not None and min(sides) <= 0:
        raise InputError(f"{path}: <size> must have a <height> and a <width> in pixels.")
    return VOCAnnotations(None if sides is None else (sides[0], sides[1]), objects)


def _to_object(element: ElementTree.Element) -> VOCObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("has no <name>")
    texts = [(element.findtext(f"bndbox/{x}") or "").strip() for x in CORNERS]
    try:
        xmin, ymin, xmax, ymax = box = [float(x) for x in texts]
    except ValueError:
        box = [math.nan]
    if not all(map(math.isfinite, box)):
        raise ValueError(
            f"({name}) has no <bndbox> of four numbers, xmin, ymin, xmax, ymax: {', '.join(texts)}"
        )
    if xmax < xmin or ymax < ymin:
        raise ValueError(f"({name}) has its corners in the wrong order: {', '.join(texts)}")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"({name}) has <difficult> {difficult}, which must be 0 or 1")
    return VOCObject(name, (xmin, ymin, xmax, ymax), difficult == "1")


def load_voc_instances(
    folder: str | os.PathLike, split: str, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """
    Same as detectron2's function of this name, which fails on an image set of one image, and on a
    broken file without naming it.

    Returns:
        list[dict]: in detectron2's dataset format.

    Raises:
        InputError: see :func:`read_image_set` and :func:`load_voc_image`.
    """
    return [load_voc_image(folder, x, class_names) for x in read_image_set(folder, split)]


def find_image(folder: str | os.PathLike, image_id: str) -> Path:
    """
    Returns:
        Path: the .jpg of an image, unless there is another file instead, such as a .png.
    """
    path = Path(folder, "JPEGImages", f"{image_id}.jpg")
    if not path.exists():
        others = sorted(path.parent.glob(f"{glob.escape(image_id)}.*"))
        return others[0] if others else path
    return path


def load_voc_image(
    folder: str | os.PathLike, image_id: str, class_names: Sequence[str]
) -> dict[str, Any]:
    """
    Returns:
        dict: a record of :func:`load_voc_instances`.

    Raises:
        InputError: see :func:`read_annotations`; also if the file has no size of the image, or an
            object of another class.
    """
    path = annotations_file(folder, image_id)
    size, objects = read_annotations(path)
    if size is None:
        raise InputError(f"{path} has no <size> with the <height> and <width> of the image.")
    for i, x in enumerate(objects, start=1):
        if x.name not in class_names:
            raise InputError(
                f"{path}: object {i} is of the class {x.name!r}, which the dataset lacks."
                + (did_you_mean(x.name, class_names) or f" It has {', '.join(class_names)}.")
            )
    return {
        "file_name": str(find_image(folder, image_id)),
        "image_id": image_id,
        "height": size[0],
        "width": size[1],
        "annotations": [
            {
                "category_id": class_names.index(x.name),
                # As detectron2: the first pixel is 1, and the box includes the last one.
                "bbox": [x.box[0] - 1, x.box[1] - 1, x.box[2], x.box[3]],
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for x in objects
        ],
    }
