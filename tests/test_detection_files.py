import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VOC_CLASSES
from detectron2 import _C
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from ohem_d2.evaluation import PascalVOCEvaluator, build_evaluator, evaluate_detections
from ohem_d2.evaluation.detection_files import read_coco_detections, read_voc_detections

FIXTURE = Path(__file__).parent.parent.parent / "shared" / "data" / "coco_eval_fixture"
HEIGHT, WIDTH = 60, 80
NUM_KEYPOINTS = 3
CATEGORIES = {7: "cat", 3: "dog"}  # by id in the json file


@pytest.fixture
def coco(tmp_path):
    """
    A dataset of three images with boxes, masks and keypoints, the last image without objects.
    """
    rng = np.random.default_rng(0)
    annotations = []
    for i in range(8):
        x, y = rng.integers(0, 40), rng.integers(0, 30)
        width, height = rng.integers(10, 30, 2)
        corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
        points = np.array([x, y]) + rng.integers(0, 10, (NUM_KEYPOINTS, 2))
        annotations.append(
            {
                "id": i + 1,
                "image_id": 30 + i % 2,
                "category_id": [7, 3][i % 3 % 2],
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [np.ravel(corners).tolist()],
                "keypoints": np.c_[points, [2] * NUM_KEYPOINTS].ravel().tolist(),
                "num_keypoints": NUM_KEYPOINTS,
            }
        )
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in (30, 31, 9)
        ],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        "annotations": annotations,
    }
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(content, default=int))
    name = "made_coco"
    register_coco_instances(name, {}, str(file), str(tmp_path))
    DatasetCatalog.get(name)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name)


def build_coco_evaluator(name, output):
    return COCOEvaluator(
        name,
        output_dir=str(output),
        use_fast_impl=hasattr(_C, "COCOevalEvaluateImages"),
        kpt_oks_sigmas=[0.1] * NUM_KEYPOINTS,
    )


def move_about(record, rng, *, masks, keypoints):
    """
    Returns:
        Instances: the objects of an image, moved, and each of them twice
    """
    objects = record["annotations"] * 2
    boxes = torch.tensor([x["bbox"] for x in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes += torch.from_numpy(rng.normal(size=boxes.shape))
    instances = Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(boxes),
        scores=torch.from_numpy(rng.random(len(objects))).float(),
        pred_classes=torch.tensor([x["category_id"] for x in objects], dtype=torch.int64),
    )
    if masks:
        instances.pred_masks = torch.zeros(len(objects), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(
            instances.pred_masks, boxes.int().clamp(min=0).tolist(), strict=True
        ):
            mask[y0 + 2 : y1, x0:x1] = True
    if keypoints:
        points = torch.tensor([x["keypoints"] for x in objects], dtype=torch.float32)
        points = points.reshape(len(objects), NUM_KEYPOINTS, 3)
        instances.pred_keypoints = points + torch.from_numpy(rng.normal(size=points.shape)).float()
    return instances


@pytest.mark.parametrize(
    "heads", [{"masks": m, "keypoints": k} for m in (False, True) for k in (False, True)], ids=str
)
def test_coco_results_are_those_of_the_run(coco, tmp_path, heads):
    rng = np.random.default_rng(1)
    evaluator = build_coco_evaluator(coco, tmp_path / "run")
    evaluator.reset()
    for record in DatasetCatalog.get(coco):
        evaluator.process([record], [{"instances": move_about(record, rng, **heads)}])
    expected = evaluator.evaluate()

    file = tmp_path / "run" / "coco_instances_results.json"
    evaluator = build_coco_evaluator(coco, tmp_path / "again")
    actual = evaluate_detections(coco, file, evaluator)
    assert len(actual) == 1 + sum(heads.values())
    for task in expected:
        assert 0 < expected[task]["AP"] < 100
        assert actual[task] == pytest.approx(expected[task], abs=1e-3, nan_ok=True)

    written = json.loads((tmp_path / "again" / file.name).read_text())
    for again, first in zip(written, json.loads(file.read_text()), strict=True):
        assert again.keys() == first.keys()
        for key in ("bbox", "keypoints"):
            assert again.get(key, []) == pytest.approx(first.get(key, []), abs=1e-5)
        for key in ("image_id", "category_id", "score", "segmentation"):
            assert again.get(key) == first.get(key)


def test_coco_results_without_detections(coco, tmp_path):
    file = tmp_path / "none.json"
    file.write_text("[]")
    results = evaluate_detections(coco, file, build_evaluator(coco))
    assert results.keys() == {"bbox"} and np.isnan(list(results["bbox"].values())).all()


@pytest.mark.skipif(not FIXTURE.exists(), reason="needs COCO's results in ../shared/data")
def test_published_results():
    name = "coco_eval_fixture"
    register_coco_instances(name, {}, str(FIXTURE / "gt.json"), "")
    try:
        results = evaluate_detections(name, FIXTURE / "dt.json", build_evaluator(name))["bbox"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    expected = {"AP": 65.8, "AP50": 87.6, "AP75": 80.7, "APs": 68.9, "APm": 80.0, "APl": 63.5}
    assert {x: results[x] for x in expected} == pytest.approx(expected, abs=0.05)


GOOD = {"image_id": 30, "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.5}
RLE = {"size": [HEIGHT, WIDTH], "counts": "Pf4"}


def test_read_coco_detections(coco, tmp_path):
    file = tmp_path / "results.json"
    other = {**GOOD, "image_id": 9, "category_id": 3, "score": 1}
    file.write_text(json.dumps([GOOD, other, GOOD]))
    detections = read_coco_detections(file, MetadataCatalog.get(coco))
    # In detectron2, categories are in the order of their ids.
    assert list(detections) == ["30", "9"] and len(detections["30"]) == 2
    assert detections["30"][0] == ([1, 2, 11, 22], 0.5, 1, None, None)
    assert detections["9"][0] == ([1, 2, 11, 22], 1, 0, None, None)


@pytest.mark.parametrize(
    "results, message",
    [
        ({"annotations": []}, "has a dict, and not the list"),
        ([[1, 2]], "detection 0, counted from 0, is a list"),
        ([GOOD, {**GOOD, "category_id": 1}], "detection 1,.* category_id 1, .* are 3, 7"),
        ([{**GOOD, "score": float("nan")}], "has score nan"),
        ([{**GOOD, "score": "0.5"}], "has score 0.5, which has to be a finite number"),
        ([{**GOOD, "bbox": [1, 2, 3]}], r"has bbox \[1, 2, 3\], which has to be four"),
        ([{**GOOD, "bbox": [1, 2, 3, float("inf")]}], "has bbox .*inf"),
        ([{"image_id": 30, "category_id": 7, "bbox": [1, 2, 3, 4]}], "has no 'score'"),
        ([GOOD, {**GOOD, "segmentation": RLE}], "detection 1.* has a 'segmentation', unlike"),
        ([{**GOOD, "keypoints": [1, 2, 1]}, GOOD], "detection 1.* has no 'keypoints', unlike"),
        ([{**GOOD, "segmentation": [[1, 2, 3, 4, 5, 6]]}], "not a compressed RLE"),
        ([{**GOOD, "keypoints": [1, 2]}], "keypoints that are not x, y and score"),
        ([{**GOOD, "keypoints": [1, 2, 1] * n} for n in (1, 2)], "of as many as the first"),
        ([{**GOOD, "segmentation": {**RLE, "size": [6, 8]}}], r"Image 30: .* width \[6, 8\], and"),
        ([{**GOOD, "segmentation": {**RLE, "counts": "PPP"}}], "Image 30: .*[Ii]nvalid RLE"),
        ([GOOD, {**GOOD, "image_id": 1}, {**GOOD, "image_id": 2}], "of 2 images .* them 1[.] They"),
    ],
)
def test_bad_coco_results(coco, tmp_path, results, message):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        evaluate_detections(coco, file, build_evaluator(coco))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"image 0.5 1 2 3 4\n"])
def test_not_json(coco, tmp_path, content):
    file = tmp_path / "results.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"results.json cannot be read as json: "):
        evaluate_detections(coco, file, build_evaluator(coco))


@pytest.fixture
def comp4(tmp_path):
    """
    The files of a folder, with a detection of a dog alone.
    """
    files = {x: tmp_path / f"comp4_det_train_{x}.txt" for x in VOC_CLASSES}
    for file in files.values():
        file.write_text("")
    files["dog"].write_text("both 0.25 11 11 40 30\n")
    return files


def test_read_voc_detections(comp4, tmp_path):
    comp4["cow"].write_text("easy_alone 1e-3 1 1.5 2.25 3\nboth 5 1 2 3 4\n")
    detections = read_voc_detections(tmp_path, "train", VOC_CLASSES)
    # detectron2's first pixel is 0, and a box ends behind its last one.
    assert detections == {
        "both": [([10, 10, 40, 30], 0.25, 1, None, None), ([0, 1, 3, 4], 5, 2, None, None)],
        "easy_alone": [([0, 0.5, 2.25, 3], 0.001, 2, None, None)],
    }


def test_voc_results_are_those_of_the_run(voc, comp4, tmp_path):
    # The numbers of test_pascal_voc_evaluation.test_results.
    results = evaluate_detections(voc, tmp_path, PascalVOCEvaluator(voc))
    assert results["bbox"]["AP50-dog"] == 50 and results["bbox"]["AP50-cat"] == 0


def test_voc_detections_by_another_evaluator(voc, comp4, tmp_path):
    # Of the two dogs one is found: all precisions at a recall of 0 to .5 are 1, 51 of 101 points.
    # There is no detection of the cat and of the cows, which COCO's format has not as difficult.
    evaluator = build_coco_evaluator(voc, tmp_path / "output")
    results = evaluate_detections(voc, tmp_path, evaluator)["bbox"]
    assert results["AP-dog"] == pytest.approx(100 * 51 / 101)
    assert results["AP-cat"] == results["AP-cow"] == 0


@pytest.mark.parametrize(
    "line",
    [
        "both 0.5 1 2 3",
        "both 0.5 1 2 3 4 5",
        "both 0.5 1 2 3 four",
        "both nan 1 2 3 4",
        "both 0.5 1 2 inf 4",
        "",
    ],
)
def test_bad_comp4_lines(voc, comp4, tmp_path, line):
    comp4["cow"].write_text(f"both 0.5 1 2 3 4\n{line}\n")
    with pytest.raises(ValueError, match=f"train_cow.txt, line 2: '{line}' is not an image id and"):
        evaluate_detections(voc, tmp_path, PascalVOCEvaluator(voc))


def test_bad_comp4_folders(voc, comp4, coco, tmp_path):
    comp4["dog"].write_text("both 0.5 1 2 3 4\n000001 0.5 1 2 3 4\n000002 0.5 1 2 3 4\n")
    with pytest.raises(ValueError, match=f"{voc}: .* of 2 images .* them 000001[.] "):
        evaluate_detections(voc, tmp_path, PascalVOCEvaluator(voc))
    comp4["cow"].unlink()
    with pytest.raises(ValueError, match="comp4_det_train_cow.txt is missing.* an empty one"):
        evaluate_detections(voc, tmp_path, PascalVOCEvaluator(voc))
    with pytest.raises(ValueError, match=f"is a folder, .* {coco} have to be in a json file"):
        evaluate_detections(coco, tmp_path, build_evaluator(coco))


def test_build_evaluator(voc, coco, tmp_path):
    assert isinstance(build_evaluator(voc), PascalVOCEvaluator)
    assert isinstance(build_evaluator(coco, str(tmp_path)), COCOEvaluator)
    metadata = MetadataCatalog.get("made_lvis").set(evaluator_type="lvis")
    with pytest.raises(ValueError, match="made_lvis is evaluated by 'lvis'. Only 'coco' and"):
        build_evaluator(metadata.name)
    MetadataCatalog.pop(metadata.name)
