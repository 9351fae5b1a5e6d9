"""
PASCAL VOC 2012's test set: images whose annotations are not public. The server of its organizers
evaluates detections on them.
"""

import os
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image

from ...utils import InputError
from .voc import find_image, read_image_set

__all__ = ["register_voc_test"]


def register_voc_test(root: str) -> None:
    """
    Register voc_2012_test.

    Args:
        root (str): the folder of all datasets, with VOC2012.
    """
    folder, split = os.path.join(root, "VOC2012"), "test"
    name = "voc_2012_test"
    DatasetCatalog.register(name, partial(_load_images, folder, split))
    MetadataCatalog.get(name).set(
        thing_classes=list(CLASS_NAMES),
        dirname=folder,
        split=split,
        year=2012,
        evaluator_type="pascal_voc",
        has_annotations=False,
    )


def _load_images(folder: str, split: str) -> list[dict[str, Any]]:
    """
    Returns:
        list[dict]: in detectron2's dataset format, without annotations.
    """
    records = []
    for image_id in read_image_set(folder, split):
        file = find_image(folder, image_id)
        try:
            with Image.open(file) as image:  # reads its size, and not the image
                width, height = image.size
        except OSError as e:
            raise InputError(f"The image {file} cannot be read: {e.strerror or e}") from e
        records.append(
            {"file_name": str(file), "image_id": image_id, "height": height, "width": width}
        )
    return records
