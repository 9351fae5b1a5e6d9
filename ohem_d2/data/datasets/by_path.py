"""
Datasets that are named by their files, instead of by a name that someone has registered.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any, Optional

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ...utils import InputError
from ..dataset_findings import find_in_coco_categories
from .voc import image_set_file, load_voc_instances, read_annotations

__all__ = ["FORMS", "folder_name", "is_path", "register_by_path"]

FORMS = "coco:JSON[:IMAGE_FOLDER] or voc:FOLDER:IMAGE_SET"


def is_path(name: str) -> bool:
    """
    Whether a dataset is named by its files, in one of FORMS.
    """
    return name.startswith(("coco:", "voc:"))


def folder_name(dataset: str) -> str:
    """
    Returns:
        str: the name of a folder for the files about a dataset: its own name, without what leads
        elsewhere in a path.
    """
    return re.sub(r"[^\w.-]+|^\.+$", "_", dataset)


def register_by_path(name: str) -> None:
    """
    Register a dataset that is named by its files, unless it is already:

    - ``coco:annotations/train.json:images``: a json file in COCO's format, and the folder that its
      file names are relative to, by default its own;
    - ``voc:VOC2007:trainval``: a folder in the layout of PASCAL VOC, and an image set in its
      ImageSets/Main. Classes are those of all of its Annotations, in alphabetical order.

    Args:
        name (str): for which :func:`is_path` holds.

    Raises:
        InputError: if it is in another form, or its files are missing or cannot be read.
    """
    if name in DatasetCatalog.list():
        return
    kind, *parts = name.split(":")
    if kind == "coco" and len(parts) in (1, 2):
        _register_coco(name, *map(Path, parts))
    elif kind == "voc" and len(parts) == 2:
        _register_voc(name, Path(parts[0]), parts[1])
    else:
        raise InputError(f"The dataset {name} must be {FORMS}.")


def _register_coco(name: str, file: Path, image_folder: Optional[Path] = None) -> None:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"The dataset {name} needs {file}: {e.strerror}.") from e
    except ValueError as e:
        raise InputError(f"{file} cannot be read as json: {e}") from e
    finding = next(find_in_coco_categories(str(file), content), None)
    if finding is not None:
        raise InputError(finding.text)
    categories = sorted(content["categories"], key=lambda x: x["id"])
    class_names = [x["name"] for x in categories]
    folder = image_folder or file.parent
    if not folder.is_dir():
        raise InputError(f"The dataset {name} needs the folder {folder}, which does not exist.")
    register_coco_instances(name, {"thing_classes": class_names}, str(file), str(folder))


def _register_voc(name: str, folder: Path, image_set: str) -> None:
    file = image_set_file(folder, image_set)
    if not file.is_file():
        raise InputError(f"The dataset {name} needs {file}, which does not exist.")
    found: set[str] = set()
    for annotations in (folder / "Annotations").glob("*.xml"):
        found |= {x.name for x in read_annotations(annotations).objects}
    if not found:
        raise InputError(f"{folder}/Annotations has no *.xml with the names of objects.")
    class_names = sorted(found)
    DatasetCatalog.register(name, partial(load_voc_instances, folder, image_set, class_names))
    MetadataCatalog.get(name).set(
        thing_classes=class_names,
        dirname=str(folder),
        split=image_set,
        year=2012,  # AP is the area under the curve; 2007 has the older one
        evaluator_type="pascal_voc",
    )
