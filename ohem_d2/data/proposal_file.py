"""
detectron2's file of precomputed proposals: a pickled dict of
    "ids": list[str], the ids of N images.
    "boxes": list[np.ndarray], the proposals of each image, (R, 4) of float32, in pixels.
    "objectness_logits": list[np.ndarray], their scores, (R,) of float32.
    "bbox_mode": BoxMode, of the boxes.
    "image_sizes": np.ndarray, (N, 2), the height and width of each image in pixels. Only files that
        are written here have it: with it, proposals of other images can be told.
"""

import os
import pickle
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..utils import atomic_file

__all__ = ["make_proposals", "write_proposals", "read_proposals", "check_proposals"]

LISTS = ("ids", "boxes", "objectness_logits")
# What Detectron1 calls them.
RENAMED = {"indexes": "ids", "scores": "objectness_logits"}
# Pixels that a box may reach beyond its image: conventions differ by one.
TOLERANCE = 1.0


def make_proposals(
    image_ids: Sequence[Any], boxes: Sequence[np.ndarray], image_sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """
    Args:
        image_ids (list[int or str]): of N images.
        boxes (list[np.ndarray]): (R, 4) of each image, XYXY in pixels, the best first.
        image_sizes (list[tuple[int, int]]): the height and width of each image in pixels.

    Returns:
        dict[str, Any]: what a proposal file holds.
    """
    return {
        "ids": [str(x) for x in image_ids],
        # The view makes the type the same object in all: a pickle depends on it, and is to have the
        # same bytes whether the boxes were just computed or had been pickled.
        "boxes": [np.array(x, dtype=np.float32).view(np.float32) for x in boxes],
        # detectron2 sorts by them, not stably, and keeps the first
        # DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{TRAIN,TEST}: so each is below the one before it.
        "objectness_logits": [-np.arange(len(x), dtype=np.float32) for x in boxes],
        "bbox_mode": BoxMode.XYXY_ABS,
        "image_sizes": np.array(image_sizes, dtype=np.int64).reshape(-1, 2),
    }


def write_proposals(path: str | os.PathLike, proposals: dict[str, Any]) -> None:
    """
    Write a proposal file. It appears as a whole or not at all.

    Args:
        path (str): a local file. One that is there is replaced.
        proposals (dict[str, Any]): see :func:`make_proposals`.
    """
    # A number, so that the file can be read without detectron2.
    proposals = {**proposals, "bbox_mode": int(proposals["bbox_mode"])}
    with atomic_file(path) as unfinished, open(unfinished, "wb") as f:
        pickle.dump(proposals, f)


def read_proposals(path: str) -> dict[str, Any]:
    """
    Args:
        path (str): whatever detectron2's PathManager opens. It is unpickled, as detectron2 does
            it: it has to come from someone you trust.

    Returns:
        dict[str, Any]: see the top of this file. The boxes and logits have not been looked at.

    Raises:
        ValueError: if it is not a proposal file.
    """
    try:
        with PathManager.open(path, "rb") as f:
            proposals = pickle.load(f, encoding="latin1")
    except FileNotFoundError:
        raise
    except Exception as e:  # what unpickling something else raises depends on its bytes
        raise ValueError(f"{path} is not a proposal file: {type(e).__name__}: {e}") from e
    if not isinstance(proposals, dict):
        raise ValueError(f"{path} is not a proposal file: it holds {_describe(proposals)}.")
    proposals = {RENAMED.get(key, key): value for key, value in proposals.items()}
    for key in LISTS:
        if not isinstance(proposals.get(key), (list, tuple, np.ndarray)):
            raise ValueError(f"{path} is not a proposal file: it has no list '{key}'.")
    if "image_sizes" in proposals:
        proposals["image_sizes"] = np.asarray(proposals["image_sizes"])
        if proposals["image_sizes"].shape != (len(proposals["ids"]), 2):
            raise ValueError(f"{path}: its image_sizes are not one (height, width) for each image.")
    lengths = {key: len(proposals[key]) for key in LISTS}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: its lists are not of the same number of images: {lengths}.")
    mode = proposals.setdefault("bbox_mode", BoxMode.XYXY_ABS)
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise ValueError(
            f"{path}: its bbox_mode is {mode}. It has to be BoxMode.XYXY_ABS or XYWH_ABS."
        )
    proposals["bbox_mode"] = BoxMode(mode)
    return proposals


def check_proposals(proposals: dict[str, Any], dataset_dicts: list[dict]) -> None:
    """
    Check that detectron2 can load proposals into a dataset, and that they are of its images.

    An image may have no proposals: boxes of shape (0, 4). The proposals of images that are not in
    the dataset are not looked at, by detectron2 neither.

    Args:
        proposals (dict[str, Any]): see :func:`make_proposals` and :func:`read_proposals`.
        dataset_dicts (list[dict]): a dataset in detectron2's format. Whether boxes are inside of
            an image can be told of those that have "height" and "width".

    Raises:
        ValueError: for the first image whose proposals cannot be used, with the remedy.
    """
    # As detectron2 has it: ids are compared as text, and of equal ones the last counts.
    index = {str(image_id): i for i, image_id in enumerate(proposals["ids"])}
    missing = [x["image_id"] for x in dataset_dicts if str(x["image_id"]) not in index]
    if missing:
        raise ValueError(
            f"Image {missing[0]} has no entry in the proposals, as {len(missing)} of the "
            f"{len(dataset_dicts)} images of the dataset. They have to be computed for all of it."
        )
    for record in dataset_dicts:
        i = index[str(record["image_id"])]
        size = (record["height"], record["width"]) if {"height", "width"} <= set(record) else None
        problem = _find_problem(
            proposals["boxes"][i], proposals["objectness_logits"][i], proposals["bbox_mode"], size
        )
        if size is not None and "image_sizes" in proposals:
            height, width = proposals["image_sizes"][i]
            # First, as it is why boxes reach beyond the image.
            if (height, width) != size:
                problem = (
                    f"its proposals are of an image of height {height} and width {width}, and in "
                    f"the dataset it has height {size[0]} and width {size[1]}. They have to be "
                    "computed on the same images."
                )
        if problem:
            raise ValueError(f"Image {record['image_id']}: {problem}")


def _find_problem(
    boxes: Any, logits: Any, mode: BoxMode, size: Optional[tuple[int, int]]
) -> Optional[str]:
    """
    Returns:
        Optional[str]: why the proposals of an image of this height and width cannot be used.
    """
    if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"its boxes are {_describe(boxes)}. They have to be an array of shape (R, 4)."
    if boxes.dtype.kind != "f":
        return (
            f"its boxes are {_describe(boxes)}. detectron2 resizes boxes in their own type, and "
            "would round them down: they have to be of float32."
        )
    if not isinstance(logits, np.ndarray) or logits.dtype.kind not in "fiu":
        return (
            f"its objectness_logits are {_describe(logits)}. They have to be an array of float32."
        )
    if logits.shape != boxes.shape[:1]:
        return (
            f"its objectness_logits are {_describe(logits)}, and its boxes {_describe(boxes)}. "
            "Each box has to have one."
        )
    if np.isnan(logits).any():
        return "there is a NaN among its objectness_logits, by which proposals are sorted."
    not_finite = ~np.isfinite(boxes).all(axis=1)
    if not_finite.any():
        return f"{_first_box(boxes, not_finite)} is not finite."

    x0, y0, x1, y1 = BoxMode.convert(boxes, mode, BoxMode.XYXY_ABS).T
    reversed_ = (x1 < x0) | (y1 < y0)
    if reversed_.any():
        hint = ", or bbox_mode BoxMode.XYWH_ABS if that is what it is"
        return (
            f"{_first_box(boxes, reversed_)} ends before it begins. The file has to have boxes in "
            f"{mode.name}{hint if mode == BoxMode.XYXY_ABS else ''}."
        )
    if size is not None:
        height, width = size
        outside = (x0 < -TOLERANCE) | (y0 < -TOLERANCE)
        outside |= (x1 > width + TOLERANCE) | (y1 > height + TOLERANCE)
        if outside.any():
            return (
                f"{_first_box(boxes, outside)}, in {mode.name}, reaches beyond the image, which "
                f"has height {height} and width {width}. The proposals have to be computed on the "
                "same images."
            )
    return None


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"of shape {value.shape} and type {value.dtype}"
    return f"a {type(value).__name__}"


def _first_box(boxes: np.ndarray, chosen: Any) -> str:
    i = int(chosen.argmax())
    return f"box {i} ({', '.join(f'{x:g}' for x in boxes[i])})"
