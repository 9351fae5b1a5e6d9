"""
The objects that PASCAL VOC marks as difficult. detectron2 trains on them like on any other.
"""

import os
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

__all__ = ["PRACTICES", "check_practice", "handle_difficult_objects"]

# "train": on them. "drop": RoIs on them are background. "ignore": they are ignore regions.
PRACTICES = ("train", "drop", "ignore")


def check_practice(practice: str) -> None:
    """
    Raises:
        ValueError: if it is not one of PRACTICES.
    """
    if practice not in PRACTICES:
        raise ValueError(
            f"DATASETS.DIFFICULT is {practice!r}, and has to be one of: {', '.join(PRACTICES)}."
        )


def handle_difficult_objects(
    dataset_dicts: list[dict[str, Any]], dataset_names: Sequence[str], practice: str
) -> list[dict[str, Any]]:
    """
    Args:
        dataset_dicts (list[dict]): in detectron2's dataset format.
        dataset_names (Sequence[str]): the registered datasets that they come from. Only images of
            those in the layout of PASCAL VOC (`register_pascal_voc`) are looked at.
        practice (str): one of PRACTICES.

    Returns:
        list[dict]: the same images, without the annotations of difficult objects if these are
        dropped, with them as crowds ("iscrowd" is 1) if these are ignored.

    Raises:
        ValueError: if the practice is none of these, or the annotations of an image are not those
            of its XML file.
    """
    check_practice(practice)
    folders = {MetadataCatalog.get(name).get("dirname") for name in dataset_names} - {None}
    folders = {os.path.normpath(x) for x in folders}
    if practice == "train" or not folders:
        return dataset_dicts
    ret = []
    for record in dataset_dicts:
        # The layout is FOLDER/JPEGImages/ID.jpg and FOLDER/Annotations/ID.xml.
        folder = os.path.normpath(os.path.dirname(os.path.dirname(record["file_name"])))
        if folder in folders:
            path = os.path.join(folder, "Annotations", f"{record['image_id']}.xml")
            annotations = _handle(record["annotations"], path, practice)
            record = {**record, "annotations": annotations}
        ret.append(record)
    return ret


def _handle(annotations: list[dict[str, Any]], path: str, practice: str) -> list[dict[str, Any]]:
    with PathManager.open(path) as f:
        objects = ElementTree.parse(f).findall("object")
    # detectron2 loads all objects, in the order of the file.
    if len(objects) != len(annotations):
        raise ValueError(
            f"{path} has {len(objects)} objects, and the dataset that was loaded has "
            f"{len(annotations)} for this image: which of them are difficult is not known. "
            "DATASETS.DIFFICULT train does not ask."
        )
    ret = []
    for annotation, obj in zip(annotations, objects, strict=True):
        if obj.findtext("difficult") != "1":
            ret.append(annotation)
        elif practice == "ignore":
            ret.append({**annotation, "iscrowd": 1})
    return ret
