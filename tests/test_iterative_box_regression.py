import numpy as np
import pytest
import torch
from conftest import (
    FAMILIES,
    IMAGE_SIZE,
    KEYPOINT_HEAD,
    MASK_HEAD,
    NUM_CLASSES,
    build_heads,
    devices,
    families,
    heads_config,
    make_features,
    make_proposals,
    make_targets,
)
from detectron2.structures import Boxes, Instances
from torchvision.ops import nms

from ohem_d2.modeling.test_time import IterativeROIHeads
from ohem_d2.modeling.test_time.detection_merger import DetectionMerger

CLASS_AGNOSTIC = {
    **FAMILIES["StandardROIHeads"],
    "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
}
all_heads = pytest.mark.parametrize(
    "options",
    [*FAMILIES.values(), CLASS_AGNOSTIC],
    ids=[*FAMILIES, "class-agnostic"],
)
ON = {"TEST__ITERATIVE_BBOX__ENABLED": True, "TEST__BOX_VOTING__ENABLED": True}


def build(options, device="cpu"):
    """
    Heads in inference, and a config, RoIs on two images and none on a third.
    """
    cfg = heads_config(
        MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.05, TEST__DETECTIONS_PER_IMAGE=30, **options
    )
    heads = build_heads(cfg, device=device).eval()
    proposals = make_proposals(make_targets([3, 2, 0], device=device), [60, 30, 0])
    return cfg, heads, make_features(3, device=device), proposals


def equal(a, b):
    assert a.get_fields().keys() == b.get_fields().keys() and a.image_size == b.image_size
    for name, value in a.get_fields().items():
        other = b.get(name)
        if isinstance(value, Boxes):
            value, other = value.tensor, other.tensor
        assert torch.equal(value, other), name


@devices
@all_heads
@torch.no_grad()
def test_one_round_is_detectron2_bit_for_bit(options, device):
    cfg, heads, features, proposals = build(options, device)
    expected, _ = heads(None, features, proposals)
    actual, losses = IterativeROIHeads(cfg, heads, DetectionMerger(cfg))(None, features, proposals)
    assert losses == {} and [len(x) for x in actual] == [len(x) for x in expected]
    assert len(actual[0]) == 30 and len(actual[2]) == 0
    for a, b in zip(actual, expected, strict=True):
        equal(a, b)


@torch.no_grad()
def test_values_that_are_not_finite_are_left_out_as_in_detectron2():
    # Its other heads fail on such a RoI themselves.
    cfg, heads, features, proposals = build(FAMILIES["StandardROIHeads"])
    proposals[0].proposal_boxes.tensor[4] = torch.inf
    expected, _ = heads(None, features, proposals)
    actual, _ = IterativeROIHeads(cfg, heads, DetectionMerger(cfg))(None, features, proposals)
    for a, b in zip(actual, expected, strict=True):
        equal(a, b)


def every_prediction(heads, features, image, box):
    """
    What the heads predict on a RoI of an image, for all classes, from their own inference.

    Returns:
        dict: by class the score, and the box that it is moved to.
    """
    features = {k: v[image : image + 1] for k, v in features.items()}
    roi = Instances(IMAGE_SIZE, proposal_boxes=Boxes(box[None]))
    predictors = getattr(heads, "box_predictor", None)
    predictor = predictors[-1] if isinstance(predictors, torch.nn.ModuleList) else predictors
    thresh, predictor.test_score_thresh = predictor.test_score_thresh, -1.0
    (found,), _ = heads(None, features, [roi])
    predictor.test_score_thresh = thresh
    classes, scores = found.pred_classes.tolist(), found.scores.tolist()
    assert sorted(classes) == list(range(NUM_CLASSES))
    return dict(zip(classes, zip(scores, found.pred_boxes.tensor, strict=True), strict=True))


@all_heads
@torch.no_grad()
def test_rounds_are_a_slow_loop(options):
    """
    Three rounds, one RoI at a time: R1 are all classes of each proposal; a box of R1 with a score
    of more than .3 is relocalized for its class to one of R2, and so on. All with a score of more
    than .05 count.
    """
    cfg, heads, features, proposals = build(
        {
            **options,
            **ON,
            "TEST__ITERATIVE_BBOX__NUM_ROUNDS": 3,
            "TEST__ITERATIVE_BBOX__SCORE_THRESH": 0.3,
        }
    )
    predicted = IterativeROIHeads(cfg, heads).predict(features, proposals)
    for image, (proposals_per_image, actual) in enumerate(zip(proposals, predicted, strict=True)):
        current = [
            (c, *x)
            for box in proposals_per_image.proposal_boxes.tensor
            for c, x in every_prediction(heads, features, image, box).items()
        ]
        expected = [x for x in current if x[1] > 0.05]
        for _ in range(2):
            current = [
                (c, *every_prediction(heads, features, image, box)[c])
                for c, score, box in current
                if score > 0.3
            ]
            assert current or image == 2
            expected += [x for x in current if x[1] > 0.05]
        assert len(actual) == len(expected)
        # In any order
        rows = torch.tensor([[c, s, *box.tolist()] for c, s, box in expected]).reshape(-1, 6)
        ours = torch.cat(
            [actual.pred_classes[:, None], actual.scores[:, None], actual.pred_boxes.tensor], dim=1
        )
        order = [np.lexsort(x.double().round(decimals=3).T.numpy()) for x in (rows, ours)]
        torch.testing.assert_close(ours[order[1]], rows[order[0]], rtol=1e-4, atol=1e-3)


@all_heads
@torch.no_grad()
def test_the_detections_are_nms_and_voting_over_all_rounds(options):
    cfg, heads, features, proposals = build({**options, **ON, "TEST__BOX_VOTING__NMS_THRESH": 0.3})
    iterative = IterativeROIHeads(cfg, heads, DetectionMerger(cfg))
    union = iterative.predict(features, proposals)
    detections, _ = iterative(None, features, proposals)
    for all_boxes, found in zip(union, detections, strict=True):
        survivors = []
        for c in range(NUM_CLASSES):
            x = all_boxes[all_boxes.pred_classes == c]
            survivors.append(x[nms(x.pred_boxes.tensor, x.scores, 0.3)])
        survivors = Instances.cat(survivors)
        survivors = survivors[survivors.scores.argsort(descending=True)][:30]
        assert torch.equal(found.scores, survivors.scores)
        assert torch.equal(found.pred_classes, survivors.pred_classes)
        # Voting has moved them, but not far: voters have an IoU of .5.
        moved = (found.pred_boxes.tensor - survivors.pred_boxes.tensor).abs().amax(dim=1)
        assert len(found) == 0 or 0 < moved.max() < 30


@pytest.mark.parametrize("head", [MASK_HEAD, KEYPOINT_HEAD], ids=["mask", "keypoint"])
@families
@torch.no_grad()
def test_masks_and_keypoints_are_of_the_final_boxes(family, head):
    if family == "Res5ROIHeads" and head is KEYPOINT_HEAD:
        pytest.skip("they have no keypoint head")
    cfg, heads, features, proposals = build({**FAMILIES[family], **head, **ON})
    found, _ = IterativeROIHeads(cfg, heads, DetectionMerger(cfg))(None, features, proposals)
    name = "pred_masks" if head is MASK_HEAD else "pred_keypoints"
    for x in found:
        assert len(x.get(name)) == len(x)
    again = [
        Instances(
            x.image_size, pred_boxes=x.pred_boxes, pred_classes=x.pred_classes, scores=x.scores
        )
        for x in found
    ]
    for x, y in zip(found, heads.forward_with_given_boxes(features, again), strict=True):
        equal(x, y)


@families
@torch.no_grad()
def test_mixed_precision(family):
    cfg, heads, features, proposals = build({**FAMILIES[family], **ON})
    iterative = IterativeROIHeads(cfg, heads, DetectionMerger(cfg))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found, *_), _ = iterative(None, features, proposals)
    assert len(found) > 0 and found.pred_boxes.tensor.dtype == torch.float32


@torch.no_grad()
def test_later_rounds_forward_no_more_rois_at_once_than_the_first(monkeypatch):
    cfg, heads, features, proposals = build(
        {**FAMILIES["StandardROIHeads"], **ON, "TEST__ITERATIVE_BBOX__SCORE_THRESH": 0.0}
    )
    counts = []
    heads.box_head.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
    IterativeROIHeads(cfg, heads).predict(features, proposals)
    # Each of 90 RoIs has a box of a score of .05 or more for some of three classes.
    first, *later = counts
    assert first == 90 and len(later) > 1 and max(later) == 90


@all_heads
@torch.no_grad()
def test_nothing_to_go_on_with(options):
    cfg, heads, features, proposals = build(
        {**options, **ON, "TEST__ITERATIVE_BBOX__SCORE_THRESH": 1.0}
    )
    once = IterativeROIHeads(roi_heads=heads).predict(features, proposals)
    twice = IterativeROIHeads(cfg, heads).predict(features, proposals)
    for a, b in zip(twice, once, strict=True):
        equal(a, b)
    none = [x[:0] for x in proposals]
    found, _ = IterativeROIHeads(cfg, heads, DetectionMerger(cfg))(None, features, none)
    assert [len(x) for x in found] == [0, 0, 0]
