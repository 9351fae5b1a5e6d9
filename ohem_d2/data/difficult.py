"""
Objects that PASCAL VOC marks as difficult. detectron2 trains on them like on any other.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..utils import InputError
from .datasets.voc import annotations_file, read_annotations

__all__ = ["PRACTICES", "check_practice", "handle_difficult_objects"]

# "train": they are objects. "drop": RoIs on them are background. "ignore": ignore regions.
PRACTICES = ("train", "drop", "ignore")


def check_practice(practice: str) -> None:
    """
    Raises:
        InputError: if it is not one of PRACTICES.
    """
    if practice not in PRACTICES:
        raise InputError(
            f"DATASETS.DIFFICULT is {practice!r}. It must be one of: {', '.join(PRACTICES)}."
        )


def handle_difficult_objects(
    dataset_dicts: list[dict[str, Any]], dataset_names: Sequence[str], practice: str
) -> list[dict[str, Any]]:
    """
    Args:
        dataset_dicts (list[dict]): in detectron2's dataset format.
        dataset_names (Sequence[str]): the registered datasets they come from. Only those in the
            layout of PASCAL VOC (`register_pascal_voc`) are changed.
        practice (str): one of PRACTICES.

    Returns:
        list[dict]: the same images. "drop" removes the annotations of difficult objects, "ignore"
        marks them as crowds ("iscrowd" is 1).

    Raises:
        InputError: if the practice is unknown, or an image's annotations differ from its XML file.
    """
    check_practice(practice)
    folders = {MetadataCatalog.get(name).get("dirname") for name in dataset_names} - {None}
    folders = {os.path.normpath(x) for x in folders}
    if practice == "train" or not folders:
        return dataset_dicts
    ret = []
    for record in dataset_dicts:
        # FOLDER/JPEGImages/ID.jpg and FOLDER/Annotations/ID.xml
        folder = os.path.normpath(os.path.dirname(os.path.dirname(record["file_name"])))
        if folder in folders:
            path = annotations_file(folder, record["image_id"])
            annotations = _handle(record["annotations"], path, practice)
            record = {**record, "annotations": annotations}
        ret.append(record)
    return ret


def _handle(annotations: list[dict[str, Any]], path: Path, practice: str) -> list[dict[str, Any]]:
    objects = read_annotations(path).objects
    # detectron2 loads all objects in the order of the file.
    if len(objects) != len(annotations):
        raise InputError(
            f"{path} has {len(objects)} objects, but the loaded dataset has {len(annotations)} for "
            "this image, so the difficult ones are unknown. Set DATASETS.DIFFICULT train to train "
            "on all objects."
        )
    ret = []
    for annotation, obj in zip(annotations, objects, strict=True):
        if not obj.difficult:
            ret.append(annotation)
        elif practice == "ignore":
            ret.append({**annotation, "iscrowd": 1})
    return ret
