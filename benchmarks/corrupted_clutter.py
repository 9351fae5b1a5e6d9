"""
The demo's training images with the corrupted annotations that find_mistakes.py has written. To
import this registers clutter_corrupted_0, ..., one for each seed that it has run with:

    python tools/inspect_hard_examples.py --config-file output/find_mistakes/0/config.yaml \\
        --import benchmarks.corrupted_clutter MODEL.WEIGHTS output/find_mistakes/0/model_final.pth
"""

import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ohem_d2.data.datasets.clutter import FOLDER

__all__ = ["ANNOTATIONS", "OUTPUT", "register"]

OUTPUT = Path(__file__).resolve().parent.parent / "output/find_mistakes"
ANNOTATIONS = "annotations.json"


def register(folder: Path) -> str:
    """
    Args:
        folder (Path): of one seed, named after it.

    Returns:
        str: the name of the dataset. It takes the place of one that is there.
    """
    name = f"clutter_corrupted_{folder.name}"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    images = Path(os.getenv("DETECTRON2_DATASETS", "datasets"), FOLDER, "JPEGImages")
    register_coco_instances(name, {}, str(folder / ANNOTATIONS), str(images))
    return name


for _path in OUTPUT.glob(f"*/{ANNOTATIONS}"):
    register(_path.parent)
