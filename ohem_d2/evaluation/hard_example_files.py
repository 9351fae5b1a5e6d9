"""
Hard examples in files: a json file from which a stopped run continues, a table, and annotations
for a labeling tool.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils import InputError, atomic_file, write_json
from .hard_examples import KINDS, MISSED, HardExample

__all__ = ["HardExampleList", "write_coco_json", "write_csv"]

BOXES = ("roi", "gt_box", "pred_box")
CORNERS = ("x0", "y0", "x1", "y1")


class HardExampleList:
    """
    The examples of each kind with the largest loss, among the images seen so far. The memory does
    not grow with the number of images.

    Attributes:
        num_images (int): how many images were seen.
        num_found (dict[str, int]): how many examples of each kind they have.
        broken (list[str]): what is wrong with those that cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike, description: dict[str, Any], max_per_kind: int
    ) -> None:
        """
        Read what an earlier run has saved, or start anew.

        Args:
            path (str): a json file, in a folder that exists.
            description (dict): what the examples depend on, in types that json has.
            max_per_kind (int): keep at most this many examples of each of KINDS, 1 or more.

        Raises:
            InputError: if the file is from another run. It is not changed.
        """
        self.path = Path(path)
        self.description = {**description, "max_per_kind": max_per_kind}
        self.max_per_kind = max_per_kind
        self.num_images = 0
        self.num_found = dict.fromkeys(KINDS, 0)
        self.broken: list[str] = []
        self._by_kind: dict[str, list[HardExample]] = {x: [] for x in KINDS}
        if self.path.exists():
            self._read()

    def add(self, examples: Sequence[HardExample]) -> None:
        """
        Args:
            examples: of the next image.
        """
        self.num_images += 1
        for x in examples:
            self.num_found[x.kind] += 1
        self._insert(examples)

    def add_broken(self, text: str) -> None:
        """
        Args:
            text (str): what is wrong with the next image. It names the file.
        """
        self.num_images += 1
        self.broken.append(text)

    def hardest(self) -> list[HardExample]:
        """
        Returns:
            list[HardExample]: by kind, and within a kind by decreasing loss.
        """
        return [x for kind in KINDS for x in self._by_kind[kind]]

    def save(self) -> None:
        """
        Write the file, whole or not at all.
        """
        value = {
            "description": self.description,
            "num_images": self.num_images,
            "num_found": self.num_found,
            "broken": self.broken,
            "fields": HardExample._fields,
            "examples": self.hardest(),
        }
        write_json(self.path, value)

    def _insert(self, examples: Sequence[HardExample]) -> None:
        for kind in {x.kind for x in examples}:
            of_kind = self._by_kind[kind] + [x for x in examples if x.kind == kind]
            # Sorting is stable: among equal losses the first stay.
            self._by_kind[kind] = sorted(of_kind, key=lambda x: -x.loss)[: self.max_per_kind]

    def _read(self) -> None:
        try:
            saved = json.loads(self.path.read_text())
            theirs, self.num_images = saved["description"], int(saved["num_images"])
            self.num_found = {x: int(saved["num_found"][x]) for x in KINDS}
            self.broken = [str(x) for x in saved.get("broken", [])]  # older files have none
            self._insert([HardExample(*x) for x in saved["examples"]])
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise InputError(
                f"{self.path} exists, but is not a list of hard examples. Move it away."
            ) from e
        if theirs != self.description:
            differing = [k for k, v in self.description.items() if theirs.get(k) != v]
            raise InputError(
                f"{self.path} is from another run, with different {', '.join(differing)}. Choose "
                "another output folder, or move the file away."
            )


def write_csv(
    path: str | os.PathLike, examples: Iterable[HardExample], class_names: Sequence[str]
) -> None:
    """
    Write a row for each example, in UTF-8: the fields of :class:`HardExample` with classes by name,
    a column for each coordinate of a box, and the IoU of predicted and annotated box.
    """
    columns: list[str] = []
    for name in HardExample._fields:
        columns += [f"{name}_{x}" for x in CORNERS] if name in BOXES else [name]
    with atomic_file(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow([*columns, "iou"])
        for example in examples:
            row: list[Any] = []
            for name, value in example._asdict().items():
                if name in BOXES:
                    row += value or [None] * 4
                elif name in ("gt_class", "pred_class"):
                    row.append(None if value is None else class_names[value])
                else:
                    row.append(value)
            writer.writerow([*row, example.iou])


def write_coco_json(
    path: str | os.PathLike,
    examples: Iterable[HardExample],
    records: Mapping[str, dict[str, Any]],
    class_names: Sequence[str],
    image_root: str | os.PathLike,
) -> None:
    """
    Write a dataset in COCO's format with an annotation for each example: the annotated box of a
    missed object, otherwise the predicted box. "attributes" hold the rest.

    Args:
        examples (Iterable[HardExample]):
        records (Mapping[str, dict]): the images by file name, in detectron2's dataset format.
        class_names (Sequence[str]): of the K classes, whose ids in the file are 1 to K.
        image_root (str): the folder that file names are relative to.
    """
    image_ids: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for example in examples:
        box, category = example.pred_box, example.pred_class
        if example.kind == MISSED and example.gt_box and example.gt_class is not None:
            box, category = example.gt_box, example.gt_class
        x0, y0, x1, y1 = box
        annotated = "" if example.gt_class is None else class_names[example.gt_class]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_ids.setdefault(example.file_name, len(image_ids) + 1),
                "category_id": category + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "score": example.score,
                "attributes": {
                    "kind": example.kind,
                    "annotated_class": annotated,
                    "loss": example.loss,
                },
            }
        )
    images = [
        {
            "id": image_id,
            "file_name": os.path.relpath(name, image_root),
            "height": records[name]["height"],
            "width": records[name]["width"],
        }
        for name, image_id in image_ids.items()
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(class_names)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
