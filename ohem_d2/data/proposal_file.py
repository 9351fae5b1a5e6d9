"""
detectron2's file of precomputed proposals: a pickled dict of

    "ids": list[str], the ids of N images.
    "boxes": list[np.ndarray], the proposals of each image, (R, 4) float32, in pixels.
    "objectness_logits": list[np.ndarray], their scores, (R,) float32.
    "bbox_mode": BoxMode of the boxes.
    "image_sizes": np.ndarray, (N, 2), height and width of each image in pixels. Only files written
        here have it: it reveals proposals of other images.
"""

import os
import pickle
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..utils import InputError, atomic_file
from ..utils.safe_pickle import load_pickle

__all__ = ["make_proposals", "write_proposals", "read_proposals", "check_proposals"]

LISTS = ("ids", "boxes", "objectness_logits")
RENAMED = {"indexes": "ids", "scores": "objectness_logits"}  # Detectron1's names
# A box may reach this many pixels beyond its image: conventions differ by one.
TOLERANCE = 1.0


def make_proposals(
    image_ids: Sequence[Any], boxes: Sequence[np.ndarray], image_sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """
    Args:
        image_ids (list[int or str]): of N images.
        boxes (list[np.ndarray]): (R, 4) for each image, XYXY in pixels, the best first.
        image_sizes (list[tuple[int, int]]): height and width of each image in pixels.

    Returns:
        dict[str, Any]: the content of a proposal file.
    """
    return {
        "ids": [str(x) for x in image_ids],
        # view() gives all arrays the same dtype object. The bytes of a pickle depend on it, and
        # must not depend on whether the boxes were unpickled themselves.
        "boxes": [np.array(x, dtype=np.float32).view(np.float32) for x in boxes],
        # Strictly decreasing: detectron2's sort is not stable, and only the first
        # DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{TRAIN,TEST} are used.
        "objectness_logits": [-np.arange(len(x), dtype=np.float32) for x in boxes],
        "bbox_mode": BoxMode.XYXY_ABS,
        "image_sizes": np.array(image_sizes, dtype=np.int64).reshape(-1, 2),
    }


def write_proposals(path: str | os.PathLike, proposals: dict[str, Any]) -> None:
    """
    Write a proposal file, whole or not at all.

    Args:
        path (str): a local file. An existing one is replaced.
        proposals (dict[str, Any]): see :func:`make_proposals`.
    """
    # bbox_mode as a number: the file can be read without detectron2.
    proposals = {**proposals, "bbox_mode": int(proposals["bbox_mode"])}
    with atomic_file(path) as unfinished, open(unfinished, "wb") as f:
        pickle.dump(proposals, f)


def read_proposals(path: str) -> dict[str, Any]:
    """
    Args:
        path (str): anything that detectron2's PathManager opens. Code in it is not run.

    Returns:
        dict[str, Any]: see the top of this file. The boxes and logits are not checked.

    Raises:
        InputError: if it is not a proposal file.
    """
    try:
        with PathManager.open(path, "rb") as f:
            proposals = load_pickle(f)
    except FileNotFoundError:
        raise
    except OSError as e:  # such as a URL that cannot be reached
        raise InputError(f"{path} cannot be read: {e}") from e
    except Exception as e:  # unpickling other bytes may raise anything
        raise InputError(f"{path} is not a proposal file: {type(e).__name__}: {e}") from e
    if not isinstance(proposals, dict):
        raise InputError(f"{path} is not a proposal file: it holds {_describe(proposals)}.")
    proposals = {RENAMED.get(key, key): value for key, value in proposals.items()}
    for key in LISTS:
        if not isinstance(proposals.get(key), (list, tuple, np.ndarray)):
            raise InputError(f"{path} is not a proposal file: it has no list '{key}'.")
    lengths = {key: len(proposals[key]) for key in LISTS}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: its lists have different lengths: {lengths}.")
    if "image_sizes" in proposals:
        proposals["image_sizes"] = np.asarray(proposals["image_sizes"])
        if proposals["image_sizes"].shape != (lengths["ids"], 2):
            raise InputError(f"{path}: its image_sizes must be one (height, width) per image.")
    mode = proposals.setdefault("bbox_mode", BoxMode.XYXY_ABS)
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise InputError(f"{path}: its bbox_mode is {mode}. It must be XYXY_ABS or XYWH_ABS.")
    proposals["bbox_mode"] = BoxMode(mode)
    return proposals


def check_proposals(proposals: dict[str, Any], dataset_dicts: list[dict]) -> None:
    """
    Check that detectron2 can load proposals into a dataset, and that they belong to its images.

    An image may have no proposals: boxes of shape (0, 4). Proposals of images outside the dataset
    are not checked; detectron2 does not read them either.

    Args:
        proposals (dict[str, Any]): see :func:`make_proposals` and :func:`read_proposals`.
        dataset_dicts (list[dict]): a dataset in detectron2's format. Boxes beyond the image are
            only found in records with "height" and "width".

    Raises:
        InputError: for the first image whose proposals cannot be used; the message names the
            remedy.
    """
    # As in detectron2, ids are compared as text, and the last of equal ids counts.
    index = {str(image_id): i for i, image_id in enumerate(proposals["ids"])}
    missing = [x["image_id"] for x in dataset_dicts if str(x["image_id"]) not in index]
    if missing:
        raise InputError(
            f"Image {missing[0]} has no entry in the proposals, like {len(missing)} of the "
            f"{len(dataset_dicts)} images of the dataset. Compute proposals for all of them."
        )
    for record in dataset_dicts:
        i = index[str(record["image_id"])]
        size = (record["height"], record["width"]) if {"height", "width"} <= set(record) else None
        problem = None
        if size is not None and "image_sizes" in proposals:
            height, width = proposals["image_sizes"][i]
            if (height, width) != size:
                problem = (
                    f"its proposals are for an image of height {height} and width {width}, but in "
                    f"the dataset it has height {size[0]} and width {size[1]}. Compute them on the "
                    "same images."
                )
        problem = problem or _find_problem(
            proposals["boxes"][i], proposals["objectness_logits"][i], proposals["bbox_mode"], size
        )
        if problem:
            raise InputError(f"Image {record['image_id']}: {problem}")


def _find_problem(
    boxes: Any, logits: Any, mode: BoxMode, size: Optional[tuple[int, int]]
) -> Optional[str]:
    """
    Returns:
        Optional[str]: why the proposals of an image of this height and width cannot be used.
    """
    if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"its boxes are {_describe(boxes)}. They must be an array of shape (R, 4)."
    if boxes.dtype.kind != "f":
        return (
            f"its boxes are {_describe(boxes)}. They must be float32: detectron2 resizes boxes in "
            "their own type, and would truncate integers."
        )
    if not isinstance(logits, np.ndarray) or logits.dtype.kind not in "fiu":
        return f"its objectness_logits are {_describe(logits)}. They must be an array of float32."
    if logits.shape != boxes.shape[:1]:
        return (
            f"its objectness_logits are {_describe(logits)}, but its boxes {_describe(boxes)}. "
            "Each box needs one."
        )
    if np.isnan(logits).any():
        return "there is a NaN among its objectness_logits, which sort the proposals."

    def first_box(chosen: Any) -> str:
        i = int(chosen.argmax())
        return f"box {i} ({', '.join(f'{x:g}' for x in boxes[i])})"

    not_finite = ~np.isfinite(boxes).all(axis=1)
    if not_finite.any():
        return f"{first_box(not_finite)} is not finite."
    x0, y0, x1, y1 = BoxMode.convert(boxes, mode, BoxMode.XYXY_ABS).T
    reversed_ = (x1 < x0) | (y1 < y0)
    if reversed_.any():
        hint = (
            " If they are XYWH_ABS, set its bbox_mode to that." if mode == BoxMode.XYXY_ABS else ""
        )
        return f"{first_box(reversed_)} ends before it begins in {mode.name}.{hint}"
    if size is not None:
        height, width = size
        outside = (x0 < -TOLERANCE) | (y0 < -TOLERANCE)
        outside |= (x1 > width + TOLERANCE) | (y1 > height + TOLERANCE)
        if outside.any():
            return (
                f"{first_box(outside)}, in {mode.name}, reaches beyond the image of height "
                f"{height} and width {width}. Compute the proposals on the same images."
            )
    return None


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"of shape {value.shape} and type {value.dtype}"
    return f"a {type(value).__name__}"
