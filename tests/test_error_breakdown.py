"""
Verdicts on detections: worked by hand, by another implementation, and as pycocotools has them.
"""

import contextlib
import math
import os

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ohem_d2.evaluation.error_breakdown import (
    VERDICTS,
    WRONG,
    ErrorCounts,
    count_errors,
    find_best_threshold,
    find_threshold_of_precision,
    judge_detections,
    rank_detections,
)

SIZE = (100, 100)


def make_detections(detections):
    """
    Args:
        detections: a list of box, score and class.
    """
    return Instances(
        SIZE,
        pred_boxes=make_boxes([x[0] for x in detections]),
        scores=torch.tensor([x[1] for x in detections], dtype=torch.float32),
        pred_classes=torch.tensor([x[2] for x in detections], dtype=torch.int64),
    )


def make_objects(objects):
    return Instances(
        SIZE,
        gt_boxes=make_boxes([x[0] for x in objects]),
        gt_classes=torch.tensor([x[1] for x in objects], dtype=torch.int64),
    )


def make_boxes(boxes):
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def judge(detections, objects, ignored=()):
    return judge_detections(make_detections(detections), make_objects(objects), make_boxes(ignored))


def verdicts(*args, **kwargs):
    return [VERDICTS[x] for x in judge(*args, **kwargs).verdicts]


# An object of class 0, of 10 x 10, and boxes by their IoU with it.
OBJECT = [0, 0, 10, 10]
IOU_60 = [0, 0, 10, 6]  # 60 / 100
IOU_50 = [0, 0, 10, 5]  # 50 / 100, and that is enough
IOU_49 = [0, 0, 7, 7]  # 49 / 100
IOU_10 = [0, 0, 10, 1]  # 10 / 100, and that is enough
IOU_09 = [0, 0, 3, 3]  # 9 / 100
FAR = [50, 50, 60, 60]


@pytest.mark.parametrize(
    "box, category, expected",
    [
        (OBJECT, 0, "right"),
        (IOU_50, 0, "right"),
        (IOU_49, 0, "localization"),
        (IOU_10, 0, "localization"),
        (IOU_09, 0, "background"),
        (FAR, 0, "background"),
        (IOU_50, 1, "class"),
        (IOU_49, 1, "background"),  # TIDE's "both"
    ],
)
def test_one_detection(box, category, expected):
    judgement = judge([(box, 0.5, category)], [(OBJECT, 0)])
    assert VERDICTS[judgement.verdicts[0]] == expected
    assert judgement.found_scores.tolist() == [0.5 if expected == "right" else -math.inf]


def test_the_first_takes_the_object():
    # The highest score is judged first, and not the largest IoU.
    detections = [(OBJECT, 0.3, 0), (IOU_50, 0.9, 0), (IOU_60, 0.6, 0)]
    judgement = judge(detections, [(OBJECT, 0)])
    assert [VERDICTS[x] for x in judgement.verdicts] == ["duplicate", "right", "duplicate"]
    assert judgement.found_scores.tolist() == [pytest.approx(0.9)]
    # Of equal score the first.
    assert verdicts([(IOU_50, 0.5, 0), (OBJECT, 0.5, 0)], [(OBJECT, 0)]) == ["right", "duplicate"]


def test_a_taken_object_leaves_the_next_best():
    # All three boxes lie on the first object, and have an IoU of 80 / 100 with the second.
    objects = [(OBJECT, 0), ([0, 0, 10, 8], 0)]
    judgement = judge([(OBJECT, 0.9, 0), (OBJECT, 0.8, 0), (OBJECT, 0.7, 0)], objects)
    assert [VERDICTS[x] for x in judgement.verdicts] == ["right", "right", "duplicate"]
    assert judgement.found_scores.tolist() == pytest.approx([0.9, 0.8])


def test_of_several_faults_the_first():
    # On an object of another class, IoU 60 / 100, and badly placed on one of its own: they share
    # 4 x 6 of 10 x 6 and 4 x 10, so the IoU is 24 / (60 + 40 - 24) = .32.
    objects = [(OBJECT, 1), ([0, 0, 4, 10], 0)]
    assert verdicts([(IOU_60, 0.5, 0)], objects) == ["class"]
    # A second one on the object of its class, where there is one of another class as well.
    objects = [(OBJECT, 0), (OBJECT, 1)]
    assert verdicts([(OBJECT, 0.9, 0), (OBJECT, 0.5, 0)], objects) == ["right", "duplicate"]


def test_ignored():
    # Half of the second lies in the region, 49 % of the third.
    region = [[0, 0, 10, 10]]
    boxes = [[2, 2, 5, 5], [5, 0, 15, 10], [5.1, 0, 15.1, 10]]
    detections = [(x, 0.5, 0) for x in boxes]
    assert verdicts(detections, [], region) == ["ignored", "ignored", "background"]
    # Right comes first; a duplicate is ignored.
    detections = [(OBJECT, 0.9, 0), (OBJECT, 0.8, 0), (OBJECT, 0.7, 1)]
    assert verdicts(detections, [(OBJECT, 0)], region) == ["right", "ignored", "ignored"]


def test_without_detections_or_objects():
    nothing = judge([], [])
    assert nothing.verdicts.shape == nothing.scores.shape == nothing.found_scores.shape == (0,)
    assert verdicts([(OBJECT, 0.5, 0)], []) == ["background"]
    assert judge([], [(OBJECT, 0)]).found_scores.tolist() == [-math.inf]


# Two images with three objects.
JUDGEMENTS = [
    judge(
        [(OBJECT, 0.9, 0), (IOU_60, 0.6, 0), (FAR, 0.6, 1), (IOU_49, 0.2, 0), (FAR, 0.95, 0)],
        [(OBJECT, 0), ([80, 80, 90, 90], 1)],
        [[50, 50, 70, 70]],
    ),
    judge([(OBJECT, 0.6, 1), (OBJECT, 0.4, 0)], [(OBJECT, 0)]),
]


def test_counts():
    # From .6 on: one is right (.9), one its duplicate, and one of another class than the object of
    # the second image. One is ignored (.6), and the highest, of .95, too.
    counts = count_errors(JUDGEMENTS, 0.6)
    wrong = {"background": 0, "localization": 0, "class": 1, "duplicate": 1}
    assert counts == ErrorCounts(right=1, missed=2, wrong=wrong)
    assert counts.errors == 4
    assert counts.precision == pytest.approx(1 / 3) and counts.recall == pytest.approx(1 / 3)
    # Lower, the second object is found. The box with an IoU of .49 is badly placed.
    counts = count_errors(JUDGEMENTS, 0.0)
    wrong["localization"] = 1
    assert counts == ErrorCounts(right=2, missed=1, wrong=wrong)
    # Precision 2 / 5, recall 2 / 3: 2 * (2/5 * 2/3) / (2/5 + 2/3) = 8/15 * 15/16 = 1/2
    assert counts.f1 == pytest.approx(1 / 2)
    nothing = count_errors(JUDGEMENTS, 1.0)
    assert math.isnan(nothing.precision) and nothing.recall == nothing.f1 == 0
    assert math.isnan(count_errors([], 0.5).recall)


def best_threshold(judgements):
    return find_best_threshold(rank_detections(judgements))


def test_best_threshold():
    # F1 = 2 right / (detections + 3 objects), by threshold. Those of .6 come together.
    #   .9: 2 / (1 + 3) = .5,  .6: 2 / (3 + 3) = .33,  .4: 4 / (4 + 3) = .57,  .2: 4 / (5 + 3) = .5
    assert best_threshold(JUDGEMENTS) == pytest.approx(0.4)
    # Of the first image alone, with two objects: .9: 2 / (1 + 2), which is the largest.
    assert best_threshold(JUDGEMENTS[:1]) == pytest.approx(0.9)
    # The first alone would have 2 / (1 + 2) = .67, but all of .5 come together: 2 / (3 + 2) = .4.
    # From .3 on it is 4 / (5 + 2) = .57.
    nothing = [30, 30, 40, 40]
    boxes = [(OBJECT, 0.5, 0), (OBJECT, 0.5, 0), (nothing, 0.5, 0), (FAR, 0.3, 0), (FAR, 0.3, 0)]
    assert best_threshold([judge(boxes, [(OBJECT, 0), (FAR, 0)])]) == pytest.approx(0.3)
    assert best_threshold([judge([], [(OBJECT, 0)])]) == 1.0


def test_the_threshold_of_a_precision():
    # Right of all, by threshold: .9: 1 of 1, .6: 1 of 3, .4: 2 of 4, .2: 2 of 5.
    ranking = rank_detections(JUDGEMENTS)
    assert ranking.thresholds.tolist() == pytest.approx([0.9, 0.6, 0.4, 0.2])
    assert ranking.precision.tolist() == pytest.approx([1, 1 / 3, 1 / 2, 2 / 5])
    assert ranking.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    for precision, expected in ((1.0, 0.9), (0.6, 0.9), (0.45, 0.4), (0.4, 0.2), (0.0, 0.2)):
        assert find_threshold_of_precision(ranking, precision) == pytest.approx(expected)
    wrong = rank_detections([judge([(FAR, 0.5, 0)], [(OBJECT, 0)])])
    assert find_threshold_of_precision(wrong, 0.1) is None


def slow_verdicts(detections, objects, ignored):
    """
    The rules, in plain Python.
    """
    taken, ret = set(), {}
    for i in sorted(range(len(detections)), key=lambda i: -detections[i][1]):
        box, _, category = detections[i]
        ious = [(overlap(box, x)[0], c == category, j) for j, (x, c) in enumerate(objects)]
        free = [(iou, -j) for iou, own, j in ious if own and iou >= 0.5 and j not in taken]
        if free:
            taken.add(-max(free)[1])
            ret[i] = "right"
        elif any(overlap(box, x)[1] >= 0.5 for x in ignored):
            ret[i] = "ignored"
        elif any(own and iou >= 0.5 for iou, own, _ in ious):
            ret[i] = "duplicate"
        elif any(iou >= 0.5 for iou, _, _ in ious):
            ret[i] = "class"
        elif any(own and iou >= np.float32(0.1) for iou, own, _ in ious):
            ret[i] = "localization"
        else:
            ret[i] = "background"
    return [ret[i] for i in range(len(detections))], taken


def overlap(box, other):
    """
    IoU, in float32 as tensors have it, and the part of the box that is in the other.
    """
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (box, other)]
    return np.float32(intersection / (sum(areas) - intersection)), intersection / areas[0]


# Few places, so that boxes overlap, and few scores, so that some are equal.
boxes = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 4)] * 2).map(
    lambda x: [x[0], x[1], x[0] + x[2], x[1] + x[3]]
)
classes = st.integers(0, 1)


@given(
    st.lists(st.tuples(boxes, st.sampled_from([0.25, 0.5, 0.75]), classes), max_size=8),
    st.lists(st.tuples(boxes, classes), max_size=4),
    st.lists(boxes, max_size=2),
)
def test_verdicts_are_those_of_plain_python(detections, objects, ignored):
    judgement = judge(detections, objects, ignored)
    expected, taken = slow_verdicts(detections, objects, ignored)
    assert [VERDICTS[x] for x in judgement.verdicts] == expected
    assert set(judgement.found_scores.isfinite().nonzero()[:, 0].tolist()) == taken
    counts = count_errors([judgement], 0.5)
    above = [v for v, x in zip(expected, detections, strict=True) if x[1] >= 0.5]
    assert counts.right + counts.missed == len(objects)
    assert counts.wrong == {x: above.count(x) for x in WRONG}


def random_image(generator):
    """
    Objects of three classes, an ignored box, and detections near these and anywhere.
    """

    def random_boxes(n):
        corner = generator.uniform(0, 60, (n, 2))
        return np.concatenate([corner, corner + generator.uniform(12, 40, (n, 2))], axis=1)

    objects = random_boxes(4)
    ignored = random_boxes(1)
    near = np.repeat(np.concatenate([objects, ignored]), 4, axis=0)
    found = np.concatenate([near + generator.uniform(-5, 5, near.shape), random_boxes(6)])
    categories = generator.integers(3, size=len(objects))
    # Most are of the class of their object.
    found_categories = np.concatenate([np.repeat(categories, 4), generator.integers(3, size=10)])
    wrong = generator.random(len(found)) < 0.2
    found_categories[wrong] = generator.integers(3, size=wrong.sum())
    scores = generator.random(len(found))
    return (
        list(zip(found.tolist(), scores.tolist(), found_categories.tolist(), strict=True)),
        list(zip(objects.tolist(), categories.tolist(), strict=True)),
        ignored.tolist(),
    )


def coco_box(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def coco_counts(images):
    """
    Returns:
        (right, wrong): by class, as pycocotools matches at an IoU of .5.
    """
    annotations, results = [], []
    for image_id, (detections, objects, ignored) in enumerate(images):
        crowds = [(x, c) for x in ignored for c in range(3)]  # its crowds are of a class
        for box, category in objects + crowds:
            crowd = int((box, category) in crowds)
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": crowd}
            annotation |= {"category_id": category, "bbox": coco_box(box)}
            annotations.append(annotation | {"area": np.prod(coco_box(box)[2:])})
        for box, score, category in detections:
            result = {"image_id": image_id, "category_id": category}
            results.append(result | {"bbox": coco_box(box), "score": score})
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(images))],
            "annotations": annotations,
            "categories": [{"id": i} for i in range(3)],
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
    right, wrong = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
    for x in filter(None, evaluation.evalImgs):
        counts, matched = ~x["dtIgnore"][0], x["dtMatches"][0] > 0
        right[x["category_id"]] += (counts & matched).sum()
        wrong[x["category_id"]] += (counts & ~matched).sum()
    return right.tolist(), wrong.tolist()


def test_right_and_wrong_are_those_of_coco():
    generator = np.random.default_rng(0)
    images = [random_image(generator) for _ in range(30)]
    right, wrong = [0] * 3, [0] * 3
    for detections, objects, ignored in images:
        for verdict, (_, _, category) in zip(
            verdicts(detections, objects, ignored), detections, strict=True
        ):
            right[category] += verdict == "right"
            wrong[category] += verdict in WRONG
    assert min(right) > 20 and min(wrong) > 20
    assert (right, wrong) == coco_counts(images)
