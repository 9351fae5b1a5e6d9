"""
Read detections from files:
    COCO's results: a json file with a list of {"image_id", "category_id", "score"} with "bbox"
        [x, y, width, height], "segmentation" (RLE), "keypoints" [x, y, score, x, y, score, ...], or
        several of these, the same ones in all detections.
    PASCAL VOC's comp4: a folder with a text file for each class, with the lines
        image_id score xmin ymin xmax ymax
        in pixels. The first pixel is 1, and the box includes the last one.
"""

import json
import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..utils import InputError

__all__ = ["TASKS", "check_image_ids", "comp4_file", "read_coco_results", "read_comp4_file"]

# The tasks of COCO's evaluation, and the key in its results that each evaluates.
TASKS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


def check_image_ids(image_ids: Iterable[Any], known: Collection[Any], source: str) -> None:
    """
    Args:
        image_ids: of the detections.
        known: of the images of the dataset.
        source (str): where the detections are from, for the message.

    Raises:
        InputError: if there are detections on images that the dataset lacks.
    """
    unknown = [x for x in dict.fromkeys(image_ids) if x not in known]
    if unknown:
        raise InputError(
            f"{source} has detections on {len(unknown)} images that are not among the {len(known)} "
            f"images of the dataset. The first is {unknown[0]}."
        )


def read_coco_results(
    path: str | os.PathLike, category_ids: Collection[int]
) -> list[dict[str, Any]]:
    """
    Args:
        path (str): a json file of COCO's results.
        category_ids: of the dataset.

    Returns:
        list[dict]: what is in the file.

    Raises:
        InputError: if it is not such a file, or has a category that the dataset lacks.
    """
    try:
        with open(path) as f:
            results = json.load(f)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as json: {e}") from e
    if not isinstance(results, list):
        raise InputError(
            f"{path} holds a {type(results).__name__}. COCO's results are a list of detections."
        )
    for i, result in enumerate(results):
        problem = _find_problem(result, results[0], category_ids)
        if problem:
            raise InputError(f"{path}: detection {i}, counted from 0, {problem}")
    return results


def _find_problem(result: Any, first: dict, category_ids: Collection[int]) -> Optional[str]:
    """
    Returns:
        Optional[str]: why this detection cannot be used.
    """
    if not isinstance(result, dict):
        return f"is a {type(result).__name__}, not a dict."
    for key in ("image_id", "category_id", "score"):
        if key not in result:
            return f"has no '{key}'."
    for key in ("image_id", "category_id"):
        if not isinstance(result[key], (int, str)):
            return f"has {key} {result[key]}, which is not an id."
    if result["category_id"] not in category_ids:
        return (
            f"has category_id {result['category_id']}. The dataset has: "
            f"{', '.join(map(str, category_ids))}."
        )
    if not _are_numbers([result["score"]]):
        return f"has score {result['score']}, which is not a finite number."
    keys = [x for x in TASKS.values() if x in result]
    if not keys:
        return f"has none of {', '.join(TASKS.values())}."
    if keys != [x for x in TASKS.values() if x in first]:
        return f"has {', '.join(keys)}, unlike the first one."
    if "bbox" in result and not (_are_numbers(result["bbox"]) and len(result["bbox"]) == 4):
        return f"has bbox {result['bbox']}, which is not four finite numbers."
    if "segmentation" in result:
        rle = result["segmentation"]
        if not isinstance(rle, dict) or "size" not in rle or not isinstance(rle.get("counts"), str):
            return "has a segmentation that is not a compressed RLE with 'size' and 'counts'."
    if "keypoints" in result:
        points = result["keypoints"]
        if not _are_numbers(points) or len(points) % 3 or len(points) != len(first["keypoints"]):
            return (
                "has keypoints that are not a finite x, y and score each, or not as many as the "
                "first one has."
            )
    return None


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(x, (int, float)) and math.isfinite(x) for x in values
    )


def comp4_file(folder: str | os.PathLike, split: str, class_name: str) -> Path:
    """
    Returns:
        Path: the file with the detections of a class, as PASCAL VOC's development kit names it. A
        slash in the name of a class is written as in a URL, "car%2Fvan".
    """
    class_name = class_name.replace("%", "%25").replace("/", "%2F")
    return Path(folder) / f"comp4_det_{split}_{class_name}.txt"


def read_comp4_file(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """
    Args:
        path (Path): the detections of one class. The file is empty if there are none.

    Returns:
        (list[str], np.ndarray, np.ndarray): for N detections, in the order of the file, the ids of
        their images, their scores (N,) as float64, and their boxes (N, 4) as float64, XYXY in
        detectron2's pixel coordinates.

    Raises:
        InputError: if the file is missing, or has another kind of line.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is missing. Each class of the dataset needs a file: an empty one if it has no "
            "detections."
        )
    image_ids, numbers = [], []
    # Bytes that are no text make a line that is refused, too.
    for i, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        image_id, *rest = line.split() or [""]
        try:
            values = [float(x) for x in rest]
        except ValueError:
            values = []
        if len(values) != 5 or not _are_numbers(values):
            raise InputError(
                f"{path}, line {i}: {line!r} is not an image id and five finite numbers: score, "
                "xmin, ymin, xmax, ymax."
            )
        image_ids.append(image_id)
        numbers.append(values)
    table = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    # As detectron2 loads the boxes of the objects.
    return image_ids, table[:, 0], table[:, 1:] - [1, 1, 0, 0]
