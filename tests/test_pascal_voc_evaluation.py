import contextlib
import io
import json
import math
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from conftest import VOC_CLASSES, make_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import pascal_voc_evaluation as upstream
from detectron2.evaluation import print_csv_format
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ohem_d2.evaluation import PascalVOCEvaluator
from ohem_d2.evaluation.detection_files import comp4_file, read_comp4_file
from ohem_d2.evaluation.pascal_voc_evaluation import IOU_THRESHOLDS, Objects, average_precision

CAT, DOG, COW = range(3)
# The objects of conftest.VOC_IMAGES, in detectron2's coordinates.
EASY, HARD = (10, 10, 40, 30), (60, 40, 90, 70)


def make_objects(*objects):
    image_ids, boxes, difficult = zip(*objects, strict=True)
    return Objects(list(image_ids), np.array(boxes, dtype=float), np.array(difficult, dtype=bool))


def evaluate_class(detections, objects, *thresholds):
    """
    Args:
        detections: of image id, score, box
    """
    image_ids, scores, boxes = zip(*detections, strict=True)
    return average_precision(
        image_ids, np.array(scores), np.array(boxes, dtype=float), objects, np.array(thresholds)
    )


def instances(*detections):
    """
    Args:
        detections: of class, score, box
    """
    return Instances(
        (80, 100),
        pred_boxes=Boxes(torch.tensor([x[2] for x in detections]).reshape(-1, 4)),
        scores=torch.tensor([x[1] for x in detections], dtype=torch.float32),
        pred_classes=torch.tensor([x[0] for x in detections], dtype=torch.int64),
    )


def process(evaluator, outputs):
    """
    Args:
        outputs (dict): by image id its detections, as `instances` takes them
    """
    for image_id, detections in outputs.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances(*detections)}])


def run(evaluator, outputs):
    evaluator.reset()
    process(evaluator, outputs)
    return evaluator.evaluate()


def test_average_precision_by_hand():
    objects = make_objects(
        ("a", (0, 0, 10, 10), False),  # A
        ("a", (20, 0, 30, 10), True),  # B
        ("b", (0, 0, 10, 10), False),  # C
    )
    detections = [
        ("b", 0.6, (0, 0, 10, 5)),  # C, IoU 50 / 100
        ("b", 0.6, (0, 0, 10, 10)),  # C, IoU 1, as sure as the one before it
        ("a", 0.7, (20, 0, 30, 10)),  # B
        ("a", 0.8, (0, 0, 10, 9)),  # A, IoU 90 / 100
        ("a", 0.9, (0, 0, 10, 10)),  # A, IoU 1
    ]
    aps = evaluate_class(detections, objects, 0.5, 0.75)
    # At .5, from .9 down: right, wrong (A was found), not counted, right (exactly .5), wrong.
    # Precision 1, 1/2, 2/3, 2/4 at recall 1/2, 1/2, 1, 1: 1 can be had up to recall 1/2, and 2/3
    # up to 1. The points 0 to .5 are six of the eleven.
    assert aps[0] == pytest.approx([(6 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2], abs=1e-15)
    # At .75, the IoU of .5 is too small, so that the other detection of C is right: right, wrong,
    # not counted, wrong, right. Precision 1, 1/2, 1/3, 2/4 at recall 1/2, 1/2, 1/2, 1.
    assert aps[1] == pytest.approx([(6 + 5 / 2) / 11, (1 + 1 / 2) / 2], abs=1e-15)


@pytest.mark.parametrize("first, expected", [(0, 1), (1, 1 / 2)])
def test_equal_scores_stay_in_order(first, expected):
    # Enough for an unstable sort to mix them up. If the first one is right, precision
    # begins with 1, and with 1/2 if the second is.
    detections = [("a", 0.5, (50, 50, 60, 60))] * 100
    detections[first] = ("a", 0.5, (0, 0, 10, 10))
    objects = make_objects(("a", (0, 0, 10, 10), False))
    assert evaluate_class(detections, objects, 0.5).tolist() == [[expected, expected]]


def test_a_recall_that_is_exactly_one_of_the_eleven():
    # Of ten objects, the first found ones alone: precision 1 up to a recall of .1, .2, ... 1, and 0
    # beyond, which are 2, 3, ... 11 of the eleven points.
    places = [(20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    objects = make_objects(*(("a", x, False) for x in places))
    for found in range(1, 11):
        detections = [("a", 0.9, x) for x in places[:found]]
        eleven, area = evaluate_class(detections, objects, 0.5)[0]
        assert eleven == pytest.approx((found + 1) / 11, abs=1e-15)
        assert area == pytest.approx(found / 10, abs=1e-15)


def test_an_iou_that_is_exactly_a_threshold():
    # Of 100 columns, the detection covers as many as the threshold says: IoU n * 20 / 2000.
    objects = make_objects(("a", (7, 3, 107, 23), False))
    for i, thresh in enumerate(IOU_THRESHOLDS):
        aps = evaluate_class([("a", 0.5, (7, 3, 57 + 5 * i, 23))], objects, *IOU_THRESHOLDS)
        assert aps[:, 1].tolist() == [1.0] * (i + 1) + [0.0] * (9 - i), thresh


def random_dataset(seed, spread, distance=100):
    """
    Images with objects, and detections that are these moved about, or of none. Scores are all
    different. A difficult object is detected once at most.

    Args:
        spread (float): pixels by which corners are moved
        distance (int): pixels between objects. By default, a box overlaps one at most.

    Returns:
        (dict, list): objects and detections, by image id, as make_voc and `instances` take them
    """
    rng = np.random.default_rng(seed)
    objects, outputs = {}, {}
    for image_id in ("x", "y", "z"):
        objects[image_id], outputs[image_id] = [], []
        for place in range(12):
            x0, y0 = distance * place + rng.integers(1, 40), rng.integers(1, 40)
            width, height = rng.integers(20, 50, 2)
            box = np.array([x0, y0, x0 + width - 1, y0 + height - 1])
            category, difficult = rng.integers(3), int(rng.random() < 0.2)
            if rng.random() < 0.8:
                objects[image_id].append((VOC_CLASSES[category], box.tolist(), difficult))
            for _ in range(rng.integers(1 + (1 if difficult else 3))):
                moved = box - [1, 1, 0, 0] + rng.normal(size=4) * spread
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                outputs[image_id].append([category, 0, moved.astype(np.float32).tolist()])
    detections = [x for output in outputs.values() for x in output]
    for detection, score in zip(detections, rng.permutation(len(detections)), strict=True):
        detection[1] = (score + 1) / 1000
    return objects, outputs


@pytest.fixture
def evaluated(tmp_path):
    """
    A function that evaluates the detections of a random dataset.

    Returns:
        (dict, Path): voc_results.json and its folder
    """
    names = []

    def evaluated(objects, outputs, year=2012):
        names.append(f"random_voc_{len(names)}")
        root = tmp_path / names[-1]
        make_voc(root, names[-1], objects, year)
        run(PascalVOCEvaluator(names[-1], str(root / "output")), outputs)
        return json.loads((root / "output/voc_results.json").read_text()), root

    yield evaluated
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


@pytest.mark.parametrize("spread, distance", [(1, 100), (4, 100), (4, 10), (10, 10)])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_detectron2(evaluated, monkeypatch, seed, spread, distance):
    # detectron2 takes an IoU of exactly the threshold, or a recall of .3, .6 and .7 of a multiple
    # of ten objects, for less than that: there are none of the first here. And it needs more in the
    # XML files than there is.
    def parse_rec(path):
        found = objects[Path(path).stem]
        return [{"name": n, "bbox": box, "difficult": d} for n, box, d in found]

    monkeypatch.setattr(upstream, "parse_rec", parse_rec)
    objects, outputs = random_dataset(seed, spread, distance)
    results, root = evaluated(objects, outputs, year=2007)
    found = 0
    for name, actual in results["classes"].items():
        aps = {
            (thresh, use_07): 100
            * upstream.voc_eval(
                str(root / "output/comp4_det_train_{}.txt"),
                str(root / "Annotations/{}.xml"),
                str(root / "ImageSets/Main/train.txt"),
                name,
                thresh / 100,
                use_07,
            )[2]
            for thresh in range(50, 100, 5)
            for use_07 in (True, False)
        }
        assert actual["AP50 area"] == pytest.approx(aps[50, False], abs=1e-9)
        if actual["objects"] % 10:
            mean = np.mean([aps[thresh, True] for thresh in range(50, 100, 5)])
            assert actual["AP"] == pytest.approx(mean, abs=1e-9)
            assert actual["AP75"] == pytest.approx(aps[75, True], abs=1e-9)
            assert actual["AP50"] == actual["AP50 11-point"]
            assert actual["AP50"] == pytest.approx(aps[50, True], abs=1e-9)
            found += 0 < actual["AP"] < 100
    assert found


def evaluate_with_pycocotools(objects, outputs, iou_thresh, category):
    """
    Returns:
        (float, float): 11-point and area AP of a class in percent
    """
    image_ids = list(objects)
    annotations, results = [], []
    for image_id, boxes in objects.items():
        for name, (x0, y0, x1, y1), difficult in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_ids.index(image_id) + 1,
                    "category_id": VOC_CLASSES.index(name),
                    "bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1],
                    # An object beyond the range of areas is neither needed, nor is it wrong to
                    # detect it. (A crowd has another IoU.)
                    "area": 1e9 if difficult else 100,
                    "iscrowd": 0,
                }
            )
        for label, score, (x0, y0, x1, y1) in outputs[image_id]:
            results.append(
                {
                    "image_id": image_ids.index(image_id) + 1,
                    "category_id": label,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    num_objects = sum(x["category_id"] == category and x["area"] < 1e9 for x in annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(image_ids))],
            "categories": [{"id": i, "name": x} for i, x in enumerate(VOC_CLASSES)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.iouThrs = [iou_thresh]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e6]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.params.catIds = [category]
        evaluation.evaluate()
        aps = []
        # Divided: 3 * .1 is larger than the recall 3 / 10. With a point for each object, the mean
        # is the area.
        for recalls in (np.arange(11) / 10, np.arange(1, num_objects + 1) / num_objects):
            evaluation.params.recThrs = recalls
            evaluation.accumulate()
            aps.append(100 * evaluation.eval["precision"].mean())
    return aps


@pytest.mark.parametrize("spread", [1, 4, 10])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_pycocotools(evaluated, seed, spread):
    # COCO takes the second-best object if the best one was found: here each box overlaps one alone.
    objects, outputs = random_dataset(seed, spread)
    results, _ = evaluated(objects, outputs)
    for category, actual in enumerate(results["classes"].values()):
        eleven, area = evaluate_with_pycocotools(objects, outputs, 0.5, category)
        assert actual["AP50 11-point"] == pytest.approx(eleven, abs=1e-9)
        assert actual["AP50"] == actual["AP50 area"] == pytest.approx(area, abs=1e-9)
        area = evaluate_with_pycocotools(objects, outputs, 0.75, category)[1]
        assert actual["AP75"] == pytest.approx(area, abs=1e-9)


def test_results(voc, tmp_path, caplog):
    outputs = {
        "both": [(DOG, 0.9, EASY), (COW, 0.8, HARD), (CAT, 0.7, HARD)],
        "difficult_alone": [(COW, 0.9, EASY)],
        "easy_alone": [],
        "without_the_flag": [],
    }
    folder = tmp_path / "new" / "output"
    with caplog.at_level("INFO"):
        results = run(PascalVOCEvaluator(voc, str(folder)), outputs)
    # One of two dogs is found, and nothing wrong: the area is 1/2. No cat is, and the cows are all
    # difficult.
    assert list(results) == ["bbox"] and list(results["bbox"])[:3] == ["AP", "AP50", "AP75"]
    assert results["bbox"] == pytest.approx(
        {
            **{"AP": 25, "AP50": 25, "AP75": 25},
            **{"AP50-cat": 0, "AP50-dog": 50, "AP50-cow": math.nan},
        },
        nan_ok=True,
    )
    assert sorted(x.name for x in folder.iterdir()) == [
        *(f"comp4_det_train_{x}.txt" for x in ("cat", "cow", "dog")),
        "voc_results.json",
    ]
    # The eleven points are 1 up to .5, which are six.
    eleven = 100 * 6 / 11
    written = json.loads((folder / "voc_results.json").read_text())
    assert written["dataset"] == voc and written["metric"] == "area"
    assert written["AP50 area"] == 25 and written["AP50 11-point"] == pytest.approx(eleven / 2)
    assert written["classes"]["dog"] == pytest.approx(
        {
            **{"objects": 2, "detections": 1, "AP": 50, "AP50": 50, "AP75": 50},
            **{"AP50 11-point": eleven, "AP50 area": 50},
        }
    )
    assert written["classes"]["cat"]["objects"] == 1  # it has no element `difficult`
    cow = written["classes"]["cow"]
    assert cow.pop("objects") == 0 and cow.pop("detections") == 2
    assert set(cow.values()) == {None}
    rows = [x.split() for x in caplog.text.splitlines() if x.startswith("| dog")]
    assert [" ".join(x) for x in rows] == [
        "| dog | 2 | 1 | 50.000 | 50.000 | 50.000 | 54.545 | 50.000 |"
    ]
    print_csv_format(results)  # detectron2 does so after each evaluation


def test_the_year_chooses_the_metric(evaluated):
    objects = {"a": [("cat", (11, 11, 40, 30), 0), ("cat", (51, 11, 90, 30), 0)]}
    outputs = {"a": [(CAT, 0.5, EASY)]}
    eleven_point, area = ("11-point", 6 / 11), ("area", 1 / 2)
    years = {2007: eleven_point, "2007": eleven_point, 2012: area, 2010: area, 2020: area}
    for year, (metric, ap) in years.items():
        results, _ = evaluated(objects, outputs, year)
        assert results["metric"] == metric
        assert [results[x] for x in ("AP", "AP50", "AP75")] == pytest.approx([100 * ap] * 3)


def test_a_class_with_a_slash(tmp_path):
    name, names = "with_slash", ["car/van", "100% n/a", "car%2Fvan"]
    folder = tmp_path / name
    make_voc(folder, name, {"a": [(names[0], (11, 11, 40, 30), 0)]})
    MetadataCatalog.pop(name)  # it names other classes
    MetadataCatalog.get(name).set(
        thing_classes=names, dirname=str(folder), split="train", year=2012
    )
    try:
        results = run(PascalVOCEvaluator(name, str(tmp_path / "output")), {"a": [(CAT, 0.5, EASY)]})
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    assert results["bbox"]["AP50-car/van"] == 100
    files = {x.name for x in (tmp_path / "output").glob("comp4*")}
    prefix = "comp4_det_train_"
    assert files == {f"{prefix}{x}.txt" for x in ("car%2Fvan", "100%25 n%2Fa", "car%252Fvan")}
    assert {unquote(x) for x in files} == {f"{prefix}{x}.txt" for x in names}


def test_no_detections_and_no_objects(voc, evaluated):
    results = run(PascalVOCEvaluator(voc), {"both": []})["bbox"]
    assert results["AP"] == results["AP50-cat"] == results["AP50-dog"] == 0
    assert math.isnan(results["AP50-cow"])
    results = run(PascalVOCEvaluator(voc), {})["bbox"]
    assert results["AP"] == 0 and math.isnan(results["AP50-cow"])
    results, _ = evaluated({"a": []}, {"a": [(CAT, 0.5, EASY)]})
    assert results["AP"] is None and results["classes"]["cat"]["detections"] == 1


def test_nothing_is_rounded(voc, tmp_path):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(500, generator=generator) ** 4
    boxes = torch.rand(500, 4, generator=generator) * torch.tensor([1.0, 30, 900, 3000]) + 0.125
    output = Instances(
        (80, 100),
        pred_boxes=Boxes(boxes.clone()),
        scores=scores,
        pred_classes=torch.zeros(500, dtype=torch.int64),
    )
    evaluator = PascalVOCEvaluator(voc, str(tmp_path))
    evaluator.reset()
    evaluator.process([{"image_id": "both"}], [{"instances": output}])
    evaluator.evaluate()
    assert torch.equal(output.pred_boxes.tensor, boxes)  # the model's are left as they are
    image_ids, read_scores, read_boxes = read_comp4_file(comp4_file(tmp_path, "train", "cat"))
    assert set(image_ids) == {"both"}
    assert np.array_equal(read_scores.astype(np.float32), scores.numpy())
    assert np.array_equal(read_boxes.astype(np.float32), boxes.numpy())


def test_detections_of_all_processes(voc, tmp_path, monkeypatch):
    outputs = {"both": [(DOG, 0.9, EASY)], "easy_alone": [(DOG, 0.8, EASY), (CAT, 0.7, EASY)]}
    expected = run(PascalVOCEvaluator(voc, str(tmp_path / "one")), outputs)
    first, second = (PascalVOCEvaluator(voc, str(tmp_path / "two")) for _ in range(2))
    for evaluator, image_id in [(first, "both"), (second, "easy_alone")]:
        evaluator.reset()
        process(evaluator, {image_id: outputs[image_id]})
    gathered = [first._predictions, second._predictions]
    monkeypatch.setattr(comm, "gather", lambda data, dst: gathered)
    assert first.evaluate()["bbox"] == pytest.approx(expected["bbox"], nan_ok=True)
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert second.evaluate() is None


def test_detections_of_other_images(voc):
    with pytest.raises(ValueError, match="train_dog.txt .made_voc_train. has .* nowhere"):
        run(PascalVOCEvaluator(voc), {"both": [(DOG, 0.9, EASY)], "nowhere": [(DOG, 0.9, EASY)]})
