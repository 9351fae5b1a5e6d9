"""
COCO's evaluation of files: beside pycocotools, and beside the run that has written the file.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import _C
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ohem_d2.evaluation import PascalVOCEvaluator, build_evaluator, evaluate_coco_results
from ohem_d2.utils import InputError

SAMPLES = Path(__file__).parent.parent.parent / "shared" / "data" / "coco_eval_fixture"
HEIGHT, WIDTH = 60, 80
NUM_KEYPOINTS = 3
SIGMAS = [0.1] * NUM_KEYPOINTS
CATEGORIES = {7: "cat", 3: "dog"}  # by id in the json file


@pytest.fixture
def register():
    names = []

    def register(name, file):
        register_coco_instances(name, {}, str(file), "")
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


@pytest.fixture
def coco(tmp_path, register):
    """
    A dataset of three images with boxes, masks and keypoints. The last image has no objects.
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
    (tmp_path / "gt.json").write_text(json.dumps(content, default=int))
    return register("synthetic_coco", tmp_path / "gt.json")


def rectangle_mask(x, y, width, height):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[max(round(y), 0) : round(y + height), max(round(x), 0) : round(x + width)] = 1
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def make_results(file, keys):
    """
    Each object is found three times, moved. Scores differ in the eleventh digit: they are equal in
    float32.
    """
    rng = np.random.default_rng(1)
    results = []
    for x in json.loads(file.read_text())["annotations"] * 3:
        box = (np.array(x["bbox"]) + rng.normal(size=4)).tolist()
        points = np.reshape(x["keypoints"], (-1, 3)) + rng.normal(size=(NUM_KEYPOINTS, 3))
        fields = {
            "bbox": box,
            "segmentation": rectangle_mask(*box),
            "keypoints": points.ravel().tolist(),
        }
        score = rng.choice([0.3, 0.9]) + 1e-11 * rng.random()
        result = {"image_id": x["image_id"], "category_id": x["category_id"], "score": score}
        results.append(result | {key: fields[key] for key in keys})
    return results


def assert_is_pycocotools(results, gt, file, task, sigmas=()):
    """
    To the last digit.
    """
    coco = COCO(str(gt))
    coco_eval = COCOeval(coco, coco.loadRes(str(file)), task)
    if sigmas:
        coco_eval.params.kpt_oks_sigmas = np.array(sigmas)
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    names = ["AP", "AP50", "AP75", *(["APs"] if task != "keypoints" else []), "APm", "APl"]
    expected = {k: 100 * x if x >= 0 else np.nan for k, x in zip(names, coco_eval.stats)}  # noqa: B905
    for i, category in enumerate(coco.loadCats(sorted(coco.getCatIds()))):
        # The means over the IoU thresholds and recalls.
        precision = coco_eval.eval["precision"][:, :, i, 0, -1]
        expected[f"AP-{category['name']}"] = (
            100 * precision.mean() if precision.max() > -1 else np.nan
        )
    assert results[task].keys() == expected.keys()
    np.testing.assert_array_equal(list(results[task].values()), list(expected.values()))


@pytest.mark.parametrize(
    "task, key", [("bbox", "bbox"), ("segm", "segmentation"), ("keypoints", "keypoints")]
)
def test_official_results_beside_pycocotools(coco, tmp_path, task, key):
    """
    COCO's format has no boxes in the results of masks and keypoints.
    """
    file = tmp_path / "results.json"
    file.write_text(json.dumps(make_results(tmp_path / "gt.json", [key])))
    results = evaluate_coco_results(coco, file, SIGMAS)
    assert results.keys() == {task} and 0 < results[task]["AP"] < 100
    sigmas = SIGMAS if task == "keypoints" else ()
    assert_is_pycocotools(results, tmp_path / "gt.json", file, task, sigmas)


@pytest.mark.skipif(not SAMPLES.exists(), reason="needs COCO's samples in ../shared/data")
def test_published_results(register):
    name = register("coco_sample", SAMPLES / "gt.json")
    results = evaluate_coco_results(name, SAMPLES / "dt.json")
    assert_is_pycocotools(results, SAMPLES / "gt.json", SAMPLES / "dt.json", "bbox")
    expected = {"AP": 65.8, "AP50": 87.6, "AP75": 80.7, "APs": 68.9, "APm": 80.0, "APl": 63.5}
    assert {x: results["bbox"][x] for x in expected} == pytest.approx(expected, abs=0.05)


def to_instances(record, results):
    boxes = np.array([x["bbox"] for x in results]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    categories = sorted(CATEGORIES)
    points = torch.tensor([x["keypoints"] for x in results]).reshape(-1, NUM_KEYPOINTS, 3).float()
    points[:, :, :2] += 0.5  # pixel centers
    masks = [mask_util.decode(x["segmentation"]) for x in results]
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.from_numpy(boxes).float()),
        scores=torch.tensor([x["score"] for x in results]).float(),
        pred_classes=torch.tensor([categories.index(x["category_id"]) for x in results]),
        pred_masks=torch.tensor(np.array(masks).reshape(-1, HEIGHT, WIDTH)).bool(),
        pred_keypoints=points,
    )


def test_the_file_of_a_run(coco, tmp_path):
    """
    COCOEvaluator has boxes, masks and keypoints in one file. The same results, and names.
    """
    evaluator = COCOEvaluator(
        coco,
        output_dir=str(tmp_path / "run"),
        use_fast_impl=hasattr(_C, "COCOevalEvaluateImages"),
        kpt_oks_sigmas=SIGMAS,
    )
    evaluator.reset()
    found = make_results(tmp_path / "gt.json", ["bbox", "segmentation", "keypoints"])
    for record in DatasetCatalog.get(coco):
        of_image = [x for x in found if x["image_id"] == record["image_id"]]
        evaluator.process([record], [{"instances": to_instances(record, of_image)}])
    expected = evaluator.evaluate()
    file = tmp_path / "run" / "coco_instances_results.json"
    results = evaluate_coco_results(coco, file, SIGMAS)
    assert results.keys() == expected.keys() == {"bbox", "segm", "keypoints"}
    for task in expected:
        assert 0 < expected[task]["AP"] < 100
        assert results[task] == pytest.approx(expected[task], rel=1e-12, nan_ok=True)


def test_datasets_without_a_json_file(voc, tmp_path):
    # One of two dogs is found: all precisions at a recall of 0 to .5 are 1, 51 of 101 points.
    detection = {"image_id": "both", "category_id": 1, "bbox": [10, 10, 30, 20], "score": 0.25}
    (tmp_path / "x.json").write_text(json.dumps([detection]))
    for _ in range(2):
        results = evaluate_coco_results(voc, tmp_path / "x.json")["bbox"]
        assert results["AP-dog"] == pytest.approx(100 * 51 / 101)
        assert results["AP-cat"] == results["AP-cow"] == 0


def test_no_detections(coco, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    results = evaluate_coco_results(coco, tmp_path / "none.json")
    assert results.keys() == {"bbox"} and np.isnan(list(results["bbox"].values())).all()


GOOD = {"image_id": 30, "category_id": 7, "score": 0.5, "bbox": [1, 2, 10, 20]}
RLE = {"size": [HEIGHT, WIDTH], "counts": "Pf4"}


@pytest.mark.parametrize(
    "results, message",
    [
        ([{**GOOD, "category_id": 1}], "category_id 1. The dataset has: 7, 3"),
        ([GOOD, {**GOOD, "image_id": 1}, {**GOOD, "image_id": 2}], "on 2 images .* first is 1[.]"),
        ([{**GOOD, "segmentation": {**RLE, "size": [6, 8]}}], r"width \[6, 8\]. Its image 30 has"),
        ([{**GOOD, "segmentation": {**RLE, "counts": "PPP"}}], "of detection 0.*[Ii]nvalid RLE"),
        (
            [{**GOOD, "keypoints": [1, 2, 1] * 17}],
            "have 17 keypoints, the objects 3.* must have 17",
        ),
    ],
)
def test_bad_results(coco, tmp_path, results, message):
    (tmp_path / "x.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=message):
        evaluate_coco_results(coco, tmp_path / "x.json")


def test_datasets_without_what_is_compared(coco, tmp_path, register):
    (tmp_path / "x.json").write_text(json.dumps([{**GOOD, "segmentation": RLE}]))
    content = json.loads((tmp_path / "gt.json").read_text())
    for x in content["annotations"]:
        del x["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has segmentation, but boxes has none"):
        evaluate_coco_results(register("boxes", tmp_path / "boxes.json"), tmp_path / "x.json")
    del content["annotations"]
    (tmp_path / "images.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="images has no annotations"):
        evaluate_coco_results(register("images", tmp_path / "images.json"), tmp_path / "x.json")


def test_build_evaluator(voc, coco, tmp_path):
    assert isinstance(build_evaluator(voc), PascalVOCEvaluator)
    assert isinstance(build_evaluator(coco, str(tmp_path)), COCOEvaluator)
    metadata = MetadataCatalog.get("synthetic_lvis").set(evaluator_type="lvis")
    with pytest.raises(InputError, match="synthetic_lvis is evaluated by 'lvis'. Only 'coco' and"):
        build_evaluator(metadata.name)
    MetadataCatalog.pop(metadata.name)


def test_an_evaluator_does_not_depend_on_the_folder_of_the_last_one(voc, tmp_path):
    del MetadataCatalog.get(voc).evaluator_type
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        build_evaluator(voc, str(folder))
        folder.rename(tmp_path / f"{name}_moved")
