"""
Detections in files, as evaluators write them, read again:
    COCO's results: a json file with a list of
        {"image_id", "category_id", "bbox": [x, y, width, height], "score"},
        and "segmentation" (RLE) or "keypoints" ([x, y, score, x, y, score, ...]) in all or in none.
    PASCAL VOC's comp4: a folder with one text file for each class, of lines
        image_id score xmin ymin xmax ymax
        in pixels that are counted from 1, the last one in the box.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

__all__ = [
    "Detection",
    "check_image_ids",
    "comp4_file",
    "evaluate_detections",
    "read_coco_detections",
    "read_comp4_file",
    "read_voc_detections",
]


class Detection(NamedTuple):
    box: list[float]  # XYXY in pixels, in detectron2's coordinates
    score: float
    category: int  # in [0, K), as in `pred_classes`
    segmentation: Optional[dict] = None  # the mask as RLE
    keypoints: Optional[list[float]] = None  # as in COCO's file


def evaluate_detections(
    dataset_name: str, path: str | os.PathLike, evaluator: DatasetEvaluator
) -> dict[str, Any]:
    """
    Evaluate detections in files as if a model had just found them.

    Args:
        dataset_name (str): the registered dataset that they are of.
        path (str): a json file of COCO's results, or a folder of PASCAL VOC's comp4 files.
        evaluator (DatasetEvaluator): of this dataset.

    Returns:
        dict: the evaluator's results.

    Raises:
        ValueError: if these are not detections of this dataset.
    """
    # Before the metadata: loading a json file of COCO's is what fills it in.
    records = {str(x["image_id"]): x for x in DatasetCatalog.get(dataset_name)}
    metadata = MetadataCatalog.get(dataset_name)
    if not os.path.isdir(path):
        detections = read_coco_detections(path, metadata)
    elif metadata.get("split"):
        detections = read_voc_detections(path, metadata.split, metadata.thing_classes)
    else:
        raise ValueError(
            f"{path} is a folder, which only the detections of a dataset in the layout of PASCAL "
            f"VOC can be in. Those of {dataset_name} have to be in a json file of COCO's results."
        )
    check_image_ids(detections, records, f"{path}, of {dataset_name}")
    evaluator.reset()
    for image_id, record in records.items():
        instances = _to_instances(detections.get(image_id, []), record)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


def check_image_ids(image_ids: Iterable[str], known: Collection[str], source: str) -> None:
    """
    Args:
        image_ids (Iterable[str]): of detections.
        known (Collection[str]): of the images of the dataset.
        source (str): what the detections are from, for the message.

    Raises:
        ValueError: if the dataset does not have all of these images.
    """
    unknown = [x for x in dict.fromkeys(image_ids) if x not in known]
    if unknown:
        raise ValueError(
            f"{source}: there are detections of {len(unknown)} images that the dataset does not "
            f"have, the first of them {unknown[0]}. They have to be of the {len(known)} images of "
            "this dataset."
        )


def read_coco_detections(path: str | os.PathLike, metadata: Any) -> dict[str, list[Detection]]:
    """
    Args:
        path (str): a json file of COCO's results.
        metadata (Metadata): of the dataset, which has been loaded. Its
            `thing_dataset_id_to_contiguous_id` maps the categories. Without it, they are already
            in [0, K).

    Returns:
        dict[str, list[Detection]]: by image id, in the order of the file.

    Raises:
        ValueError: if it is not such a file, or has a category that the dataset does not have.
    """
    try:
        with open(path) as f:
            results = json.load(f)
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} cannot be read as json: {e}") from e
    if not isinstance(results, list):
        raise ValueError(
            f"{path} has a {type(results).__name__}, and not the list of detections that COCO's "
            "results are."
        )
    categories = metadata.get(
        "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(metadata.thing_classes))}
    )
    detections = defaultdict(list)
    for i, result in enumerate(results):
        problem = _find_problem(result, results[0], categories)
        if problem:
            raise ValueError(f"{path}: detection {i}, counted from 0, {problem}")
        x, y, width, height = result["bbox"]
        detections[str(result["image_id"])].append(
            Detection(
                [x, y, x + width, y + height],
                result["score"],
                categories[result["category_id"]],
                result.get("segmentation"),
                result.get("keypoints"),
            )
        )
    return dict(detections)


def _find_problem(result: Any, first: dict, categories: dict[int, int]) -> Optional[str]:
    """
    Returns:
        Optional[str]: why this one of COCO's results cannot be used.
    """
    if not isinstance(result, dict):
        return f"is a {type(result).__name__}, and has to be a dict."
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in result:
            return f"has no '{key}'."
    if result["category_id"] not in categories:
        return (
            f"has category_id {result['category_id']}, which the dataset does not have: its "
            f"categories are {', '.join(map(str, categories))}."
        )
    if not _are_numbers([result["score"]]):
        return f"has score {result['score']}, which has to be a finite number."
    if not _are_numbers(result["bbox"]) or len(result["bbox"]) != 4:
        return f"has bbox {result['bbox']}, which has to be four finite numbers."
    for key in ("segmentation", "keypoints"):
        if (key in result) != (key in first):
            return f"has {'a' if key in result else 'no'} '{key}', unlike the first one."
    if "segmentation" in result:
        rle = result["segmentation"]
        if not isinstance(rle, dict) or "size" not in rle or not isinstance(rle.get("counts"), str):
            return "has a segmentation that is not a compressed RLE, of 'size' and 'counts'."
    if "keypoints" in result:
        points = result["keypoints"]
        if not _are_numbers(points) or len(points) % 3 or len(points) != len(first["keypoints"]):
            return (
                "has keypoints that are not x, y and score of each, finite, and of as many as the "
                "first one has."
            )
    return None


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(x, (int, float)) and math.isfinite(x) for x in values
    )


def read_voc_detections(
    folder: str | os.PathLike, split: str, class_names: Sequence[str]
) -> dict[str, list[Detection]]:
    """
    Args:
        folder (str): has a comp4 file for each class, see :func:`comp4_file`.
        split (str): the image set, as in the names of the files.
        class_names (list[str]): the K classes.

    Returns:
        dict[str, list[Detection]]: by image id, in the order of the classes, and in a class in
        that of the file.

    Raises:
        ValueError: if the file of a class is missing, or has a line that is something else.
    """
    detections = defaultdict(list)
    for category, name in enumerate(class_names):
        image_ids, scores, boxes = read_comp4_file(comp4_file(folder, split, name))
        for image_id, score, box in zip(image_ids, scores.tolist(), boxes.tolist(), strict=True):
            detections[image_id].append(Detection(box, score, category))
    return dict(detections)


def comp4_file(folder: str | os.PathLike, split: str, class_name: str) -> Path:
    """
    Returns:
        Path: the file of the detections of a class, as the development kit of PASCAL VOC names it.
    """
    return Path(folder) / f"comp4_det_{split}_{class_name}.txt"


def read_comp4_file(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """
    Args:
        path (Path): the detections of one class. An empty file says that there are none.

    Returns:
        (list[str], np.ndarray, np.ndarray): of N detections, in the order of the file, the ids of
        their images, their scores (N,) of float64, and their boxes (N, 4) of float64, XYXY in
        pixels in detectron2's coordinates.

    Raises:
        ValueError: if the file is missing, or has a line that is something else.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing. There has to be one such file for each class of the dataset: an "
            "empty one for a class without detections."
        )
    image_ids, numbers = [], []
    for i, line in enumerate(path.read_text().splitlines(), start=1):
        image_id, *rest = line.split() or [""]
        try:
            values = [float(x) for x in rest]
        except ValueError:
            values = []
        if len(values) != 5 or not _are_numbers(values):
            raise ValueError(
                f"{path}, line {i}: {line!r} is not an image id and five finite numbers: score, "
                "xmin, ymin, xmax, ymax."
            )
        image_ids.append(image_id)
        numbers.append(values)
    table = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    # As detectron2 loads the boxes of the objects.
    return image_ids, table[:, 0], table[:, 1:] - [1, 1, 0, 0]


def _to_instances(detections: Sequence[Detection], record: dict[str, Any]) -> Instances:
    """
    Args:
        record (dict): the image, in detectron2's dataset format.

    Returns:
        Instances: as a model's output. With `pred_masks` (R, height, width) and `pred_keypoints`
        (R, number of keypoints, 3), if the detections have them.

    Raises:
        ValueError: if a mask is not of the image's size, or broken.
    """
    size = (record["height"], record["width"])
    instances = Instances(
        size,
        pred_boxes=Boxes(torch.tensor([x.box for x in detections]).reshape(-1, 4)),
        scores=torch.tensor([x.score for x in detections], dtype=torch.float32),
        pred_classes=torch.tensor([x.category for x in detections], dtype=torch.int64),
    )
    rles = [x.segmentation for x in detections if x.segmentation]
    if rles:
        for rle in rles:
            if rle["size"] != list(size):
                raise ValueError(
                    f"Image {record['image_id']}: a mask is of height and width {rle['size']}, and "
                    f"the image of {list(size)}. The detections have to be of this dataset."
                )
        try:
            masks = mask_util.decode(rles)  # (height, width, R)
        except ValueError as e:
            raise ValueError(f"Image {record['image_id']}: {e}") from e
        instances.pred_masks = torch.from_numpy(masks).permute(2, 0, 1).bool()
    points = [x.keypoints for x in detections if x.keypoints]
    if points:
        keypoints = torch.tensor(points, dtype=torch.float32).reshape(len(points), -1, 3)
        # COCO counts pixels, and a pixel's center is half a pixel further in detectron2.
        keypoints[:, :, :2] += 0.5
        instances.pred_keypoints = keypoints
    return instances
