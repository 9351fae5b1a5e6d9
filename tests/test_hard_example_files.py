"""
The table and the annotations, read by others.
"""

import csv
import json

import pytest
from detectron2.data.datasets import load_coco_json
from pages import ODD_NAMES
from pycocotools.coco import COCO

from ohem_d2.evaluation import HardExample, write_coco_json, write_csv
from ohem_d2.evaluation.hard_examples import KINDS

ROI, GT, PRED = [1.0, 2.0, 11.0, 12.0], [1.0, 2.0, 11.0, 22.0], [1.0, 2.0, 11.0, 17.0]


def make_examples(folder):
    """
    One of each kind, in two images.
    """
    losses = (3.0, 0.5, 1.5, 1.0)
    about = [(1, GT), (0, GT), (0, GT), (None, None)]
    return [
        HardExample(
            kind, str(folder / f"{i % 2}, “x”.jpg"), ROI, gt_class, box, 2, PRED, 0.25, *losses
        )
        for i, (kind, (gt_class, box)) in enumerate(zip(KINDS, about, strict=True))
    ]


def test_csv(tmp_path):
    examples = make_examples(tmp_path)
    write_csv(tmp_path / "x.csv", examples, ODD_NAMES)
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [x["kind"] for x in rows] == list(KINDS)
    assert [x["gt_class"] for x in rows] == [ODD_NAMES[1], ODD_NAMES[0], ODD_NAMES[0], ""]
    for row, example in zip(rows, examples, strict=True):
        assert row["file_name"] == example.file_name and row["pred_class"] == ODD_NAMES[2]
        corners = ("x0", "y0", "x1", "y1")
        for name in ("roi", "gt_box", "pred_box"):
            box = [row[f"{name}_{x}"] for x in corners]
            expected = getattr(example, name)
            assert box == [""] * 4 if expected is None else [float(x) for x in box] == expected
        assert float(row["loss"]) == 3.0 and float(row["score"]) == 0.25
        # 10 x 15 of 10 x 20
        assert row["iou"] == "" if example.gt_box is None else float(row["iou"]) == 0.75


def test_coco_json(tmp_path, capsys):
    examples = make_examples(tmp_path)
    records = {x.file_name: {"height": 40, "width": 50} for x in examples}
    path = tmp_path / "x.json"
    write_coco_json(path, examples, records, ODD_NAMES, tmp_path)

    coco = COCO(str(path))
    assert [x["name"] for x in coco.loadCats(coco.getCatIds())] == ODD_NAMES
    assert [x["file_name"] for x in coco.loadImgs([1, 2])] == ["0, “x”.jpg", "1, “x”.jpg"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [x["image_id"] for x in annotations] == [1, 2, 1, 2]
    # Of a missed object what is annotated, and else what is predicted.
    assert [x["category_id"] for x in annotations] == [2, 3, 3, 3]
    assert [x["bbox"] for x in annotations] == [[1, 2, 10, 20]] + [[1, 2, 10, 15]] * 3
    assert [x["attributes"]["kind"] for x in annotations] == list(KINDS)
    assert [x["attributes"]["annotated_class"] for x in annotations] == [
        ODD_NAMES[1], ODD_NAMES[0], ODD_NAMES[0], "",
    ]  # fmt: skip
    assert all(x["area"] == pytest.approx(x["bbox"][2] * x["bbox"][3]) for x in annotations)

    loaded = load_coco_json(str(path), str(tmp_path))
    assert [x["file_name"] for x in loaded] == [examples[0].file_name, examples[1].file_name]
    assert json.loads(path.read_text())["annotations"][0]["attributes"]["loss"] == 3.0
