"""
The photographs in detectron2's catalog.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances

from benchmarks.laboratory.laboratories import DATASETS
from ohem_d2.utils import InputError

__all__ = ["check_data", "register"]


def check_data(dataset: str, data: Path, splits: tuple[str, str]) -> None:
    """
    Raises:
        InputError: if an image set of a dataset is not there.
    """
    folder = data / DATASETS[dataset].folder
    for split in splits:
        if not (folder / f"ImageSets/Main/{split}.txt").is_file():
            raise InputError(
                f"Dataset {dataset} needs {folder} in the layout of PASCAL VOC, with the image set "
                f"{split}; --data names the folder that holds it. It comes from "
                f"{DATASETS[dataset].source}."
            )


def register(dataset: str, data: Path, splits: tuple[str, str]) -> tuple[str, str]:
    """
    Register one of DATASETS with detectron2, unless it is.

    Args:
        dataset (str): its name there.
        data (Path): the folder that holds the folders of all of them.
        splits (tuple[str, str]): the image sets to train and to test on.

    Returns:
        (str, str): the names of the training set and of the test set.
    """
    spec = DATASETS[dataset]
    folder = str(data / spec.folder)
    names = f"{dataset}_{splits[0]}", f"{dataset}_{splits[1]}"
    for name, split, missing in zip(names, splits, (spec.missing, 0.0), strict=True):
        if name in DatasetCatalog:
            continue
        load = partial(load_voc_instances, folder, split, spec.class_names)
        DatasetCatalog.register(name, partial(_without_some_boxes, load, missing))
        MetadataCatalog.get(name).set(
            thing_classes=list(spec.class_names),
            evaluator_type="pascal_voc",
            dirname=folder,
            split=split,
            year=2012,  # average precision is the area under the curve, not a mean of 11 points
        )
    return names


def _without_some_boxes(
    load: Callable[[], list[dict[str, Any]]], missing: float
) -> list[dict[str, Any]]:
    """
    Load a dataset without this share of its annotations: the same ones each time.
    """
    draw = random.Random(0)
    return [
        {**x, "annotations": [y for y in x["annotations"] if draw.random() >= missing]}
        for x in load()
    ]
