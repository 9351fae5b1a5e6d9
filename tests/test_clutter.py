import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.structures import BoxMode

from ohem_d2.data.datasets import clutter

COUNTS = {"train": 40, "test": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clutter.generate_clutter(str(tmp_path_factory.mktemp("datasets")), 3, COUNTS)


def checksums(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_bytes_for_the_same_seed(folder, tmp_path):
    again = clutter.generate_clutter(str(tmp_path), 3, COUNTS)
    assert checksums(again) == checksums(folder)
    assert len(list((folder / "JPEGImages").iterdir())) == 45

    other = clutter.generate_clutter(str(tmp_path / "other"), 4, COUNTS)
    assert not set(checksums(other).values()) & {
        v for k, v in checksums(folder).items() if k.endswith(".jpg")
    }


def test_an_existing_dataset_is_kept_or_replaced_as_a_whole(tmp_path, monkeypatch):
    folder = clutter.generate_clutter(str(tmp_path), 0, {"train": 2, "test": 1})
    marker = folder / "marker"
    marker.touch()
    clutter.generate_clutter(str(tmp_path), 0, {"train": 2, "test": 1})
    assert marker.exists()

    # A failure leaves the old dataset and does not disturb the next try.
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imwrite", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clutter.generate_clutter(str(tmp_path), 1, {"train": 2, "test": 1})
    assert marker.exists()
    clutter.generate_clutter(str(tmp_path), 1, {"train": 3, "test": 1})
    assert not marker.exists()
    assert len(list((folder / "JPEGImages").iterdir())) == 4
    assert [path.name for path in Path(tmp_path).iterdir()] == ["clutter"]


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "clutter").mkdir()
    (tmp_path / "clutter" / "mine.jpg").touch()
    with pytest.raises(
        FileExistsError, match="clutter is not the synthetic dataset.*DETECTRON2_DATASETS"
    ):
        clutter.generate_clutter(str(tmp_path), 0, {"train": 1, "test": 1})
    assert (tmp_path / "clutter" / "mine.jpg").exists()


def test_voc_and_coco_loaders_agree(folder):
    for split, count in COUNTS.items():
        voc = load_voc_instances(str(folder), split, clutter.CLASS_NAMES)
        coco = load_coco_json(
            str(folder / "coco" / f"instances_{split}.json"),
            str(folder / "JPEGImages"),
            f"clutter_coco_{split}",
        )
        assert len(voc) == len(coco) == count
        for a, b in zip(voc, coco, strict=True):
            assert a["file_name"] == b["file_name"]
            assert (a["height"], a["width"]) == (b["height"], b["width"])
            assert (a["height"], a["width"], 3) == cv2.imread(a["file_name"]).shape
            for x, y in zip(a["annotations"], b["annotations"], strict=True):
                assert x["category_id"] == y["category_id"]
                box = BoxMode.convert(y["bbox"], y["bbox_mode"], BoxMode.XYXY_ABS)
                assert x["bbox"] == pytest.approx(box)


def test_difficult_objects_are_crowds_in_coco(folder):
    difficult = [
        int(obj.find("difficult").text)
        for path in sorted((folder / "Annotations").glob("train_*"))
        for obj in ElementTree.parse(path).findall("object")
    ]
    coco = json.loads((folder / "coco" / "instances_train.json").read_text())
    assert [x["iscrowd"] for x in coco["annotations"]] == difficult
    assert 0 < sum(difficult) < len(difficult)


def test_boxes_are_tight(monkeypatch):
    # Flat colors, where only the objects are red.
    monkeypatch.setattr(
        clutter,
        "_texture",
        lambda _rng, shape, color, contrast=1.0: np.zeros((*shape, 3)) + color,
    )
    monkeypatch.setattr(clutter, "_dull_color", lambda _rng: np.array([200.0, 100.0, 0.0]))
    monkeypatch.setattr(clutter, "LOOK_ALIKES", ("scrap",))
    monkeypatch.setattr(
        clutter, "_COLOR_OF", {kind: np.array([0.0, 0.0, 250.0]) for kind in clutter.CLASS_NAMES}
    )
    checked = 0
    for seed in range(40):
        image, annotations = clutter.draw_scene(np.random.default_rng(seed))
        if len(annotations) != 1:
            continue
        (annotation,) = annotations
        ys, xs = np.nonzero((image[:, :, 2] > 90) & (image[:, :, 0] < 100))
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        # Outlines are antialiased.
        assert np.abs(np.subtract(box, annotation.box)).max() <= 1, seed
        checked += 1
    assert checked >= 5


def test_marks():
    annotations = [
        annotation
        for seed in range(100)
        for annotation in clutter.draw_scene(np.random.default_rng(seed))[1]
    ]
    for annotation in annotations:
        x0, y0, x1, y1 = annotation.box
        assert 0 <= x0 < x1 <= clutter.WIDTH and 0 <= y0 < y1 <= clutter.HEIGHT
        at_border = x0 == 0 or y0 == 0 or x1 == clutter.WIDTH or y1 == clutter.HEIGHT
        if min(x1 - x0, y1 - y0) < clutter.MIN_SIZE:
            assert annotation.difficult
        if annotation.truncated and not annotation.occluded:
            # Truncated means that the circle around a shape is; the shape is smaller.
            assert at_border or min(x0, y0, clutter.WIDTH - x1, clutter.HEIGHT - y1) < 20
    for flag in ("truncated", "occluded", "difficult"):
        assert 0.02 < np.mean([getattr(x, flag) for x in annotations]) < 0.6, flag
    assert {x.class_name for x in annotations} == set(clutter.CLASS_NAMES)


def test_registered():
    for split in ("train", "test"):
        assert f"clutter_voc_{split}" in DatasetCatalog.list()
        assert f"clutter_coco_{split}" in DatasetCatalog.list()
        assert MetadataCatalog.get(f"clutter_voc_{split}").evaluator_type == "pascal_voc"
        assert MetadataCatalog.get(f"clutter_coco_{split}").evaluator_type == "coco"
