"""
The list of the hardest examples and stopped runs; the table and the annotations, read by others.
"""

import csv
import json

import pytest
from detectron2.data.datasets import load_coco_json
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import ODD_NAMES
from pycocotools.coco import COCO

from ohem_d2.evaluation import HardExample, HardExampleList, write_coco_json, write_csv
from ohem_d2.evaluation.hard_examples import KINDS
from ohem_d2.utils import InputError

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


DESCRIPTION = {"dataset": "cats", "weights": "abc", "nms_thresh": 0.3}


def make_one(kind=0, loss=1.0, name="a.jpg"):
    box = [0.0, 1.0, 2.5, 4.0]
    return HardExample(KINDS[kind], name, box, 1, box, 0, box, 0.5, loss, loss, 0.0, 0.0)


def make_list(path, max_per_kind=2, **changes):
    return HardExampleList(path, {**DESCRIPTION, **changes}, max_per_kind)


IMAGES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0, 3.0])), max_size=6),
    max_size=8,
)


@settings(max_examples=60)
@given(IMAGES, st.integers(1, 4), st.data())
def test_the_hardest_of_each_kind_stopped_or_not(tmp_path_factory, images, max_per_kind, data):
    path = tmp_path_factory.mktemp("list") / "examples.json"
    images = [
        [make_one(kind, loss, f"{i}_{k}.jpg") for k, (kind, loss) in enumerate(found)]
        for i, found in enumerate(images)
    ]
    # Python's sort is stable: of equal losses the first ones are first.
    ranked = sorted((x for found in images for x in found), key=lambda x: -x.loss)
    expected = [x for kind in KINDS for x in [y for y in ranked if y.kind == kind][:max_per_kind]]

    examples = make_list(path, max_per_kind)
    stop = data.draw(st.integers(0, len(images)))
    for found in images[:stop]:
        examples.add(found)
    examples.save()
    if stop < len(images):  # what was not saved is lost
        examples.add(images[stop])
    examples = make_list(path, max_per_kind)
    assert examples.num_images == stop
    for found in images[stop:]:
        examples.add(found)
    assert examples.hardest() == expected
    assert examples.num_images == len(images)


def test_memory_does_not_grow(tmp_path):
    examples = make_list(tmp_path / "examples.json", max_per_kind=3)
    for i in range(500):
        examples.add([make_one(kind, i % 7) for kind in range(4)])
    assert len(examples.hardest()) == 12


@pytest.mark.parametrize(
    "changes, named",
    [({"weights": "other"}, "weights"), ({"max_per_kind": 3}, "max_per_kind")],
)
def test_the_file_of_another_run(tmp_path, changes, named):
    path = tmp_path / "examples.json"
    examples = make_list(path)
    examples.add([make_one()])
    examples.save()
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"examples.json is .* run, with different {named}"):
        make_list(path, **changes)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{}", '{"description": {}, "num_images": 1, "examples": [[1]]}']
)
def test_another_file(tmp_path, text):
    path = tmp_path / "examples.json"
    path.write_text(text)
    with pytest.raises(InputError, match="is not a list of hard examples.*Move it away"):
        make_list(path)
    assert path.read_text() == text


def test_what_is_in_the_file(tmp_path):
    examples = make_list(tmp_path / "examples.json")
    examples.add([make_one()])
    examples.save()
    saved = json.loads((tmp_path / "examples.json").read_text())
    assert saved["num_images"] == 1
    (values,) = saved["examples"]
    assert dict(zip(saved["fields"], values, strict=True)) == make_one()._asdict()
