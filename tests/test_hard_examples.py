"""
What is wrong with a RoI, worked out by hand and beside plain Python.
"""

import math

import cv2
import numpy as np
import pytest
import torch
from conftest import load_config
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou

from ohem_d2.evaluation import features_and_rois, find_hard_examples
from ohem_d2.evaluation.hard_examples import KINDS, HardExample, _judge
from ohem_d2.modeling.roi_heads.box_branch import forward_rois

NUM_CLASSES = 4


def make_rois(gt_classes, gt_inds, scores, pred_boxes, losses, pred_classes=None, is_missed=None):
    return Instances(
        (100, 100),
        gt_classes=torch.tensor(gt_classes),
        pred_classes=torch.tensor(pred_classes or [0] * len(gt_classes)),
        is_missed=torch.tensor(is_missed or [True] * len(gt_classes)),
        gt_inds=torch.tensor(gt_inds),
        scores=torch.tensor(scores),
        pred_boxes=Boxes(torch.tensor(pred_boxes)),
        losses=torch.tensor(losses),
    )


def make_objects(*boxes):
    return Instances((100, 100), gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)))


def judge(rois, objects, min_score=0.05):
    _judge(rois, objects, NUM_CLASSES, min_score)
    kinds = [KINDS[i] if i >= 0 else None for i in rois.kinds.tolist()]
    return list(zip(kinds, rois.gt_inds.tolist(), strict=True))


def test_an_object_is_shown_by_its_surest_roi():
    box = [10.0, 10, 30, 30]
    rois = make_rois(
        gt_classes=[2, 2, 2, 1, 1],
        gt_inds=[0, 0, 0, 1, 1],
        scores=[0.2, 0.9, 0.9, 0.3, 0.1],
        pred_boxes=[box] * 5,
        # Of object or background, of the class, of the box: the largest of the three counts. The
        # first RoI has the largest loss of all, and barely overlaps its object.
        losses=[[9.0, 0, 0], [0.1, 3, 2], [7.0, 1, 1], [0.1, 0, 0.2], [5, 0, 0]],
    )
    assert judge(rois, make_objects(box, [50, 50, 90, 90])) == [
        (None, 0),
        ("wrong class", 0),
        (None, 0),  # as sure as the one before
        ("poor localization", 1),
        (None, 1),
    ]


def test_what_the_model_gets_right_is_not_shown():
    boxes = [[x, 10.0, x + 20, 30] for x in (0.0, 25, 50, 75)]
    rois = make_rois(
        gt_classes=[2, 2, 2, 2],
        gt_inds=[0, 1, 2, 3],
        scores=[0.9] * 4,
        pred_boxes=boxes,
        # The largest part: object or background, twice; the class, twice.
        losses=[[0.6, 0, 0.5], [0.7, 0, 0.5], [0, 0.6, 0.5], [0, 0.7, 0.5]],
        is_missed=[False, True, False, False],
        pred_classes=[2, 2, 2, 1],
    )
    expected = [(None, 0), ("missed object", 1), (None, 2), ("wrong class", 3)]
    assert judge(rois, make_objects(*boxes)) == expected


def test_what_is_found_on_the_background():
    # An object of 20 x 20. IoU of what is predicted with it, of boxes of the same size that are
    # moved by d to the right: (20 - d) / (20 + d).
    objects = make_objects([70, 70, 90, 90], [10, 10, 30, 30])
    moved = [[10.0 + d, 10, 30 + d, 30] for d in (6, 7, 16, 17)]
    rois = make_rois(
        gt_classes=[NUM_CLASSES] * 5,
        gt_inds=[0] * 5,
        scores=[0.9, 0.9, 0.9, 0.9, 0.04],
        pred_boxes=[*moved, [40.0, 40, 60, 60]],
        losses=[[2.0, 0, 0]] * 5,
    )
    assert judge(rois, objects) == [
        (None, 1),  # 14 / 26 = .54: it detects the object
        ("poor localization", 1),  # 13 / 27 = .48
        ("poor localization", 1),  # 4 / 36 = .11
        ("nothing annotated", -1),  # 3 / 37 = .08
        (None, -1),  # the model is not sure of anything
    ]


def test_without_objects():
    rois = make_rois([NUM_CLASSES], [0], [0.5], [[0.0, 0, 9, 9]], [[1.0, 0, 0]])
    assert judge(rois, make_objects()[[]]) == [("nothing annotated", -1)]


def test_the_iou_of_an_example():
    example = HardExample(
        KINDS[0], "a", [0.0] * 4, 0, [0.0, 0, 10, 10], 0, [0.0, 0, 10, 5], *[0.0] * 5
    )
    assert example.iou == 0.5
    assert example._replace(gt_box=None).iou is None


# ---- A whole image, with a model whose predictions vary


def make_model(*options):
    cfg = load_config("demo/faster_rcnn_R_18_ohem.yaml", "MODEL.DEVICE", "cpu", *options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    predictor = model.roi_heads.box_predictor
    if isinstance(predictor, torch.nn.ModuleList):
        predictor = predictor[0]
    torch.nn.init.normal_(predictor.cls_score.weight, std=0.04)
    torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.01)
    return cfg, model


def make_inputs(cfg, tmp_path, objects):
    generator = np.random.default_rng(0)
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, generator.integers(0, 255, size=(80, 104, 3), dtype=np.uint8))
    annotations = [
        {"bbox": box, "bbox_mode": 0, "category_id": category} for category, box in objects
    ]
    record = {
        "file_name": path, "image_id": 1, "height": 80, "width": 104, "annotations": annotations
    }  # fmt: skip
    from detectron2.data import transforms as T

    # Twice as large as the file.
    return DatasetMapper(cfg, is_train=True, augmentations=[T.Resize((160, 208))])(record)


OBJECTS = [(0, [5, 5, 40, 40]), (3, [50, 10, 100, 70]), (1, [10, 45, 45, 78])]


@torch.no_grad()
def by_loops(model, inputs, nms_thresh, min_score):
    """
    The definition of the examples in loops over plain numbers, but for what the model predicts.
    """
    heads, objects = model.roi_heads, inputs["instances"]
    predictor = heads.box_predictor
    features, (rois,) = features_and_rois(model, [inputs])
    predictions = forward_rois(heads, features, [rois])
    (boxes,) = predictor.predict_boxes(predictions, [rois])
    deltas = predictions[1].view(len(rois), -1, 4)
    candidates = []
    for r in range(len(rois)):
        p = predictions[0][r].double().softmax(dim=0).tolist()
        pred_class = max(range(NUM_CLASSES), key=lambda c: p[c])
        gt_class = int(rois.gt_classes[r])
        columns = deltas.shape[1]
        box = boxes[r].view(-1, 4)[pred_class if columns > 1 else 0].clone()
        box[0::2].clamp_(0, 208)
        box[1::2].clamp_(0, 160)
        ious = box_iou(objects.gt_boxes.tensor, box[None])[:, 0].tolist()
        best = max(range(len(ious)), key=lambda i: ious[i]) if ious else None
        if gt_class == NUM_CLASSES:
            parts = [-math.log(p[-1]), 0.0, 0.0]
            if p[pred_class] < min_score or (ious and ious[best] >= 0.5):
                continue
            about = best if ious and ious[best] >= 0.1 else None
            kind = "nothing annotated" if about is None else "poor localization"
        else:
            about = int(rois.gt_inds[r])
            target = predictor.box2box_transform.get_deltas(
                rois.proposal_boxes.tensor[r : r + 1], objects.gt_boxes.tensor[about : about + 1]
            )[0].tolist()
            predicted = deltas[r, gt_class if columns > 1 else 0].tolist()
            # Smooth L1 with beta 1.
            errors = [abs(x - y) for x, y in zip(predicted, target, strict=True)]
            of_box = sum(0.5 * e * e if e < 1 else e - 0.5 for e in errors)
            p_object = sum(p[:-1])
            parts = [-math.log(p_object), -math.log(p[gt_class] / p_object), of_box]
            kind = ("missed object", "wrong class", "poor localization")[parts.index(max(parts))]
            if (kind == "missed object" and p_object >= p[-1]) or (
                kind == "wrong class" and pred_class == gt_class
            ):
                kind = None
        candidates.append((sum(parts), kind, about, p[pred_class], r, gt_class, box, parts))
    surest = {}
    for x in candidates:
        if x[5] != NUM_CLASSES and x[3] > surest.get(x[2], (0,) * 4)[3]:
            surest[x[2]] = x
    candidates = [x for x in candidates if x[5] == NUM_CLASSES or surest[x[2]] is x]
    candidates = [x for x in candidates if x[1] is not None]
    kept = []
    for x in sorted(candidates, key=lambda x: -x[0]):
        box = rois.proposal_boxes.tensor[x[4]][None]
        if all(box_iou(box, rois.proposal_boxes.tensor[y[4]][None]) <= nms_thresh for y in kept):
            kept.append(x)
    return kept


@pytest.mark.parametrize("nms_thresh", [0.3, 0.7])
@pytest.mark.parametrize("objects", [OBJECTS, OBJECTS[:1], []], ids=len)
@pytest.mark.parametrize("agnostic", [False, True])
def test_as_in_loops(tmp_path, objects, nms_thresh, agnostic):
    cfg, model = make_model("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic)
    inputs = make_inputs(cfg, tmp_path, objects)
    found = find_hard_examples(model, inputs, nms_thresh, min_score=0.05)
    expected = by_loops(model, inputs, nms_thresh, min_score=0.05)
    assert expected
    assert [x.kind for x in found] == [x[1] for x in expected]
    assert [x.loss for x in found] == pytest.approx([x[0] for x in expected], rel=1e-3)
    for example, (_, _, about, score, _, _, box, parts) in zip(found, expected, strict=True):
        # The file is half as large as what the model sees.
        assert example.pred_box == pytest.approx([x / 2 for x in box.tolist()], abs=1e-3)
        assert example.score == pytest.approx(score, rel=1e-4)
        losses = (example.loss_objectness, example.loss_class, example.loss_box_reg)
        assert losses == pytest.approx(parts, rel=1e-3, abs=1e-4)
        assert example.gt_class == (None if about is None else objects[about][0])
        assert example.gt_box == (None if about is None else pytest.approx(objects[about][1]))
        assert example.file_name == inputs["file_name"]


def test_the_model_stays_as_it_is(tmp_path):
    cfg, model = make_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_hard_examples(model, make_inputs(cfg, tmp_path, OBJECTS))
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(x.grad is None for x in model.parameters())


def test_a_cascade_is_looked_at_in_its_first_stage(tmp_path):
    cfg, model = make_model(
        "MODEL.ROI_HEADS.NAME", "OHEMCascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
    )  # fmt: skip
    inputs = make_inputs(cfg, tmp_path, OBJECTS)
    found = find_hard_examples(model, inputs)
    torch.nn.init.zeros_(model.roi_heads.box_predictor[1].cls_score.weight)
    assert found and find_hard_examples(model, inputs) == found


def test_a_model_that_has_diverged(tmp_path):
    cfg, model = make_model()
    torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias, math.nan)
    with pytest.raises(ValueError, match=r"Some losses of RoIs in .*image.png are not finite"):
        find_hard_examples(model, make_inputs(cfg, tmp_path, OBJECTS))
