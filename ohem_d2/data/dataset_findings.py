"""
What is wrong with the files of a dataset.
"""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import check_image_size, read_image
from detectron2.utils.file_io import PathManager
from PIL import UnidentifiedImageError
from tqdm import tqdm

from ..utils import InputError
from .datasets.voc import annotations_file, is_voc, load_voc_image, read_image_set

__all__ = [
    "Finding",
    "describe_image_error",
    "find_in_coco_categories",
    "find_in_dataset",
    "find_in_files",
    "find_in_image",
    "find_in_records",
    "load_records",
]

# What the lists of a file in COCO's format hold.
ONE = {"images": "image", "annotations": "annotation", "categories": "category"}


class Finding(NamedTuple):
    text: str  # names the file, and the object
    # False: detectron2 gets along with it. It drops empty boxes, and cuts off what is beyond an
    # image.
    is_error: bool = True


def find_in_dataset(dataset: str, with_images: bool) -> Iterator[Finding]:
    """
    Find what is wrong, with a progress bar in a terminal. It stops after the first part that has an
    error: the files, the records that are loaded from them, the images.

    Args:
        dataset (str): a registered one.
        with_images (bool): whether to decode the images.
    """
    has_errors = False
    for finding in find_in_files(dataset):
        has_errors |= finding.is_error
        yield finding
    if has_errors:
        return
    try:
        records = load_records(dataset)
    except InputError as e:
        yield Finding(str(e))
        return
    missing = list(find_in_records(dataset, records))
    yield from missing
    if missing or not with_images:
        return
    with ThreadPoolExecutor() as pool:  # decoding releases the lock of the interpreter
        decoded = pool.map(lambda x: list(find_in_image(x)), records)
        for findings in tqdm(
            decoded, f"Looking at {dataset}", len(records), unit="image", leave=False, disable=None
        ):
            yield from findings


def find_in_files(dataset: str, is_evaluated: bool = False) -> Iterator[Finding]:
    """
    The first part of :func:`find_in_dataset`: files in the layout of PASCAL VOC and in COCO's
    format. There are none of any other dataset.

    Args:
        dataset (str): a registered one.
        is_evaluated (bool): whether COCO's evaluation needs it, which asks for more than training.
    """
    metadata = MetadataCatalog.get(dataset)
    # It is there before a large file is parsed.
    with tqdm(desc=f"Looking into {dataset}", unit="file", leave=False, disable=None) as bar:
        if is_voc(dataset) and metadata.get("has_annotations", True):
            folder, split, classes = metadata.dirname, metadata.split, metadata.thing_classes
            yield from _find_in_voc(folder, split, classes, bar)
        elif metadata.get("json_file"):
            yield from _find_in_coco(metadata.json_file, is_evaluated, bar)


def load_records(dataset: str) -> list[dict[str, Any]]:
    """
    Returns:
        list[dict]: in detectron2's dataset format.

    Raises:
        InputError: if it cannot be loaded.
    """
    try:
        return DatasetCatalog.get(dataset)
    except Exception as e:  # a user's function may raise anything
        reason = str(e) if isinstance(e, InputError) else f"{type(e).__name__}: {e}"
        remedy = ""
        if is_voc(dataset):
            metadata = MetadataCatalog.get(dataset)
            folder, split = metadata.dirname, metadata.split
            if len(read_image_set(folder, split)) == 1:
                remedy = f". detectron2 cannot read a single image: name it voc:{folder}:{split}"
        raise InputError(f"{dataset} cannot be loaded: {reason}{remedy}.") from e


def find_in_records(dataset: str, records: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """
    The second part of :func:`find_in_dataset`.

    Args:
        records: from :func:`load_records`.
    """
    if not records:
        yield Finding(f"{dataset} has no images.")
    for x in records:
        file = x.get("file_name")  # a user's own mapper may need none
        if file and not PathManager.exists(file):
            yield Finding(f"{file}, an image of {dataset}, does not exist.")


def find_in_image(record: dict[str, Any]) -> Iterator[Finding]:
    """
    Args:
        record (dict): in detectron2's dataset format. The image is decoded, if a file has it.
    """
    if "file_name" not in record:  # a user's own mapper may need none
        return
    try:
        image = read_image(record["file_name"])
        check_image_size(dict(record), image)
    except Exception as e:  # a broken image may raise anything
        yield Finding(describe_image_error(record["file_name"], e))


def describe_image_error(file_name: str, error: Exception) -> str:
    """
    Returns:
        str: why an image cannot be used, after its name.
    """
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # names an object of Python's
        reason = "it is not an image, or in a format that Pillow does not know"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return f"The image {file_name} cannot be used: {reason}"


def _find_in_box(
    where: str, box: Sequence[float], width: float, height: float
) -> Iterator[Finding]:
    """
    Args:
        box: XYXY.
    """
    x0, y0, x1, y1 = box
    text = ", ".join(f"{x:g}" for x in box)
    if x1 == x0 or y1 == y0:
        yield Finding(f"{where} has an empty box: {text}.", is_error=False)
    elif x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        yield Finding(
            f"{where} has a box beyond its image of {width} x {height}: {text}.", is_error=False
        )


def _find_in_voc(
    folder: str, split: str, class_names: Sequence[str], bar: tqdm
) -> Iterator[Finding]:
    try:
        image_ids = read_image_set(folder, split)
    except InputError as e:
        yield Finding(str(e))
        return
    bar.reset(len(image_ids))
    for image_id in image_ids:
        bar.update()
        try:
            record = load_voc_image(folder, image_id, class_names)
        except InputError as e:
            yield Finding(str(e))
            continue
        for i, x in enumerate(record["annotations"], start=1):
            where = f"{annotations_file(folder, image_id)}: object {i}"
            yield from _find_in_box(where, x["bbox"], record["width"], record["height"])


def find_in_coco_categories(path: str, content: Any) -> Iterator[Finding]:
    """
    Args:
        path (str): a json file, for the messages.
        content: of it.

    Returns:
        what is wrong with its categories.
    """
    findings = list(_find_in_list(path, content, "categories"))
    yield from findings
    if not findings:
        yield from _find_in_ids(path, content, "categories")
        for x in content["categories"]:
            if _has_id(x) and not isinstance(x.get("name"), str):
                yield Finding(f"{path}: category {x['id']} has no name.")


def _find_in_list(path: str, content: Any, key: str) -> Iterator[Finding]:
    values = content.get(key) if isinstance(content, dict) else None
    if not isinstance(values, list) or not all(isinstance(x, dict) for x in values):
        yield Finding(f"{path} is not in COCO's format: it has no list of {key}.")


def _find_in_ids(path: str, content: dict[str, Any], key: str) -> Iterator[Finding]:
    ids = set()
    for i, x in enumerate(content[key]):
        if not _has_id(x):
            yield Finding(f"{path}: {ONE[key]} {i}, counted from 0, has no id.")
        elif x["id"] in ids:
            yield Finding(f"{path}: the id {x['id']} is of more than one {ONE[key]}.")
        else:
            ids.add(x["id"])


def _has_id(value: dict[str, Any]) -> bool:
    return isinstance(value.get("id"), (int, str))


def _find_in_coco(path: str, is_evaluated: bool, bar: tqdm) -> Iterator[Finding]:
    try:
        with PathManager.open(path) as f:
            content = json.load(f)
    except (OSError, ValueError) as e:
        yield Finding(f"{path} cannot be read as json: {e}")
        return
    findings = [x for key in ONE for x in _find_in_list(path, content, key)]
    if findings:
        yield from findings
        return
    yield from _find_in_ids(path, content, "images")
    yield from _find_in_ids(path, content, "annotations")
    yield from find_in_coco_categories(path, content)
    ids = {key: {x["id"]: x for x in content[key] if _has_id(x)} for key in ONE}
    for image_id, x in ids["images"].items():
        if not isinstance(x.get("file_name"), str):
            yield Finding(f"{path}: image {image_id} has no file_name.")
        if not all(_is_number(x.get(side)) and x[side] > 0 for side in ("height", "width")):
            yield Finding(f"{path}: image {image_id} has no height and width in pixels.")
    bar.unit = "annotation"
    bar.reset(len(ids["annotations"]))
    for annotation_id, x in ids["annotations"].items():
        bar.update()
        where = f"{path}: annotation {annotation_id}"
        yield from _find_in_coco_annotation(where, x, ids["images"], ids["categories"])
        for key in ("iscrowd", "area"):
            if key not in x:
                yield Finding(f"{where} has no {key}, which COCO's evaluation needs.", is_evaluated)


def _find_in_coco_annotation(
    where: str, annotation: dict[str, Any], images: dict[Any, Any], categories: dict[Any, Any]
) -> Iterator[Finding]:
    for key, known in (("image_id", images), ("category_id", categories)):
        value = annotation.get(key)
        if not isinstance(value, (int, str)) or value not in known:
            yield Finding(f"{where} has {key} {value}, which the file lacks.")
            return
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield Finding(f"{where} has iscrowd {annotation['iscrowd']}, which must be 0 or 1.")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        yield Finding(f"{where} has no bbox of four numbers, x, y, width, height: {box}.")
        return
    x, y, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        yield Finding(f"{where} has a bbox with a negative width or height: {box}.")
        return
    image = images[annotation["image_id"]]
    width, height = image.get("width"), image.get("height")
    if _is_number(width) and _is_number(height):
        yield from _find_in_box(where, [x, y, x + box_width, y + box_height], width, height)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
