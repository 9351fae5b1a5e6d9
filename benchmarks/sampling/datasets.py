"""
The datasets of the comparison in detectron2's catalog.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances

from benchmarks.sampling.experiments import DATASETS
from ohem_d2.utils import InputError

__all__ = ["check_data", "register"]


def check_data(dataset: str, data: Path) -> None:
    """
    Raises:
        InputError: if the folder of a dataset is not there.
    """
    folder, source = DATASETS[dataset].folder, DATASETS[dataset].source
    if folder is not None and not (data / folder / "ImageSets/Main/train.txt").is_file():
        raise InputError(
            f"Dataset {dataset} needs {data / folder} in the layout of PASCAL VOC, with the image "
            f"sets train and val; --data names the folder that holds it. {source}"
        )


def register(dataset: str, data: Path) -> tuple[str, str]:
    """
    Register one of DATASETS with detectron2.

    Args:
        dataset (str): its name there.
        data (Path): the folder that holds the folders of all of them.

    Returns:
        (str, str): the names of the training set and of the test set.
    """
    spec = DATASETS[dataset]
    if spec.folder is None:
        return "clutter_coco_train", "clutter_voc_test"
    folder = str(data / spec.folder)
    names = f"{dataset}_train", f"{dataset}_val"
    annotated = spec.class_names + spec.background_classes
    for name, split in zip(names, ("train", "val"), strict=True):
        load = partial(load_voc_instances, folder, split, annotated)
        DatasetCatalog.register(name, partial(_keep_classes, load, len(spec.class_names)))
        MetadataCatalog.get(name).set(
            thing_classes=list(spec.class_names),
            evaluator_type="pascal_voc",
            dirname=folder,
            split=split,
            year=2012,  # average precision is the area under the curve, not a mean of 11 points
        )
    return names


def _keep_classes(load: Callable[[], list[dict[str, Any]]], num: int) -> list[dict[str, Any]]:
    """
    Load a dataset without the annotations of all but the first classes.
    """
    return [
        {**record, "annotations": [x for x in record["annotations"] if x["category_id"] < num]}
        for record in load()
    ]
