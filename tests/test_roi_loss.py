import math

import pytest
import torch
from conftest import IMAGE_SIZE, NUM_CLASSES, has_sigmoid_loss, make_proposals, make_targets
from detectron2 import layers
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformRotated
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ohem_d2.modeling.roi_heads import label_rois, roi_losses
from ohem_d2.modeling.roi_heads.roi_loss import (
    check_minable,
    fed_loss_class_mask,
    objectness_losses,
)

has_diou_loss = pytest.mark.skipif(
    not hasattr(layers, "diou_loss"), reason="this detectron2 has no DIoU and CIoU loss"
)


def make_predictor(weights=(10.0, 10.0, 5.0, 5.0), num_classes=NUM_CLASSES, **options):
    return FastRCNNOutputLayers(
        layers.ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform(weights=weights),
        num_classes=num_classes,
        **options,
    )


def make_rois(counts=(20, 15, 10), num_objects=(4, 0, 2), seed=0):
    targets = make_targets(num_objects, seed)
    matcher = Matcher([0.5], [0, 1])
    return label_rois(make_proposals(targets, counts, seed), targets, matcher, NUM_CLASSES)


def predict(predictor, num_rois, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(num_rois, predictor.num_classes + 1, generator=generator),
        torch.randn(num_rois, predictor.bbox_pred.out_features, generator=generator),
    )


PREDICTORS = [
    pytest.param({}, id="softmax, L1"),
    pytest.param({"smooth_l1_beta": 1.0}, id="smooth L1"),
    pytest.param({"cls_agnostic_bbox_reg": True}, id="class-agnostic"),
    pytest.param({"weights": (1.0, 1.0, 1.0, 1.0), "smooth_l1_beta": 0.1}, id="other deltas"),
    pytest.param({"box_reg_loss_type": "giou"}, id="GIoU"),
    pytest.param(
        {"box_reg_loss_type": "giou", "cls_agnostic_bbox_reg": True}, id="class-agnostic GIoU"
    ),
    pytest.param({"box_reg_loss_type": "diou"}, marks=has_diou_loss, id="DIoU"),
    pytest.param({"box_reg_loss_type": "ciou"}, marks=has_diou_loss, id="CIoU"),
    pytest.param({"loss_weight": {"loss_box_reg": 3.0}}, id="weighted box loss"),
    pytest.param({"loss_weight": 0.5}, id="both losses weighted"),
    pytest.param({"use_sigmoid_ce": True}, marks=has_sigmoid_loss, id="sigmoid"),
]


@pytest.mark.parametrize("options", PREDICTORS)
@pytest.mark.parametrize("seed", range(3))
def test_each_is_the_predictors_loss_on_that_roi_alone(options, seed):
    predictor = make_predictor(**options)
    rois = make_rois(seed=seed)
    scores, deltas = predict(predictor, 45, seed)
    losses = roi_losses(predictor, (scores, deltas), rois)

    alone = [
        rois_per_image[i : i + 1] for rois_per_image in rois for i in range(len(rois_per_image))
    ]
    assert sum(x.gt_classes.item() < NUM_CLASSES for x in alone) >= 5
    for i, roi in enumerate(alone):
        with EventStorage():
            expected = predictor.losses((scores[i : i + 1], deltas[i : i + 1]), [roi])
        for name in ("loss_cls", "loss_box_reg"):
            torch.testing.assert_close(losses[name][i], expected[name])


@pytest.mark.parametrize("options", PREDICTORS)
def test_mean_is_the_training_loss(options):
    predictor = make_predictor(**options)
    rois = make_rois()
    predictions = predict(predictor, 45)
    losses = roi_losses(predictor, predictions, rois)
    with EventStorage():
        expected = predictor.losses(predictions, rois)
    assert losses.keys() == expected.keys()
    for name in expected:
        assert losses[name].shape == (45,)
        torch.testing.assert_close(losses[name].mean(), expected[name])


@has_sigmoid_loss
def test_federated_loss():
    # Of three classes two are counted: that of the objects, and one drawn at random.
    predictor = make_predictor(
        use_sigmoid_ce=True,
        use_fed_loss=True,
        get_fed_loss_cls_weights=lambda: torch.ones(NUM_CLASSES),
        fed_loss_num_classes=3,
    )
    rois = make_rois(counts=(20,), num_objects=(1,))
    gt_classes = rois[0].gt_classes
    predictions = predict(predictor, 20)
    masks = set()
    for seed in range(10):
        torch.manual_seed(seed)
        mask = fed_loss_class_mask(predictor, gt_classes)
        masks.add(tuple(mask.tolist()))
        losses = roi_losses(predictor, predictions, rois, mask)
        torch.manual_seed(seed)
        with EventStorage():
            expected = predictor.losses(predictions, rois)
        torch.testing.assert_close(losses["loss_cls"].mean(), expected["loss_cls"])
    assert len(masks) == 2  # it was not always the same class


def test_by_hand():
    # One RoI (0, 0, 10, 10) on an object (0, 0, 20, 10) of class 0, and one on background.
    #   Softmax of (ln 2, 0, ...) over one class and background is (2/3, 1/3): the loss is ln 3/2
    # for the object and ln 3 for the background.
    #   The centers are 5 apart, half of the RoI's width: dx = 10 * .5 = 5; dw = 5 * ln 2 = 3.466;
    # dy = dh = 0. For a prediction of (5, 0, 3.466 + 1, 2), the differences are (0, 0, 1, 2), and
    # smooth L1 with beta 1 is .5 * 1^2 = .5 and 2 - .5 = 1.5: together 2.
    predictor = make_predictor(num_classes=1, smooth_l1_beta=1.0)
    rois = Instances(
        IMAGE_SIZE,
        proposal_boxes=Boxes([[0, 0, 10, 10], [30, 30, 40, 40]]),
        gt_boxes=Boxes([[0, 0, 20, 10], [0, 0, 20, 10]]),
        gt_classes=torch.tensor([0, 1]),
    )
    scores = torch.tensor([[math.log(2), 0.0], [math.log(2), 0.0]])
    deltas = torch.tensor([[5.0, 0.0, 5 * math.log(2) + 1, 2.0], [9.0, 9.0, 9.0, 9.0]])
    losses = roi_losses(predictor, (scores, deltas), [rois])
    torch.testing.assert_close(losses["loss_cls"], torch.tensor([1.5, 3.0]).log())
    torch.testing.assert_close(losses["loss_box_reg"], torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_compared_in_float32(dtype):
    predictor = make_predictor()
    rois = make_rois()
    half = tuple(x.to(dtype) for x in predict(predictor, 45))
    losses = roi_losses(predictor, half, rois)
    expected = roi_losses(predictor, tuple(x.float() for x in half), rois)
    for name in expected:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected[name], rtol=0, atol=0)


def test_no_rois():
    predictor = make_predictor()
    losses = roi_losses(predictor, predict(predictor, 0), make_rois((0, 0), (2, 0)))
    assert {k: v.shape for k, v in losses.items()} == {"loss_cls": (0,), "loss_box_reg": (0,)}


class OwnLoss(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        return {"loss_cls": predictions[0].sum(), "loss_box_reg": predictions[1].sum()}


class OwnForward(FastRCNNOutputLayers):
    def forward(self, x):
        return super().forward(2 * x)


def test_what_can_be_mined():
    arguments = {"box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), "num_classes": 2}
    shape = layers.ShapeSpec(channels=8)
    check_minable(FastRCNNOutputLayers(shape, **arguments))
    check_minable(OwnForward(shape, **arguments))
    with pytest.raises(ValueError, match=r"OwnLoss overrides losses\(\)"):
        check_minable(OwnLoss(shape, **arguments))
    with pytest.raises(ValueError, match="and Linear is not one"):
        check_minable(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"BBOX_REG_LOSS_TYPE is 'l3'.*smooth_l1, giou"):
        check_minable(FastRCNNOutputLayers(shape, box_reg_loss_type="l3", **arguments))
    arguments["box2box_transform"] = Box2BoxTransformRotated((1.0, 1.0, 1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="rotated"):
        check_minable(FastRCNNOutputLayers(shape, **arguments))


@pytest.mark.parametrize("options", [{}, {"loss_weight": {"loss_cls": 2.0}}])
def test_objectness_is_a_part_of_the_softmax_loss(options):
    predictor, rois = make_predictor(**options), make_rois()
    scores, deltas = predict(predictor, 45)
    gt_classes = torch.cat([x.gt_classes for x in rois])
    total = roi_losses(predictor, (scores, deltas), rois)["loss_cls"].tolist()
    objectness = objectness_losses(predictor, scores, gt_classes).tolist()
    weight = options.get("loss_weight", {}).get("loss_cls", 1.0)
    probs = scores.double().softmax(dim=1).tolist()
    num_fg = 0
    for p, gt_class, of_object, both in zip(
        probs, gt_classes.tolist(), objectness, total, strict=True
    ):
        p_bg = p[NUM_CLASSES]
        if gt_class == NUM_CLASSES:
            of_class, expected = 0.0, -math.log(p_bg)
        else:
            num_fg += 1
            of_class = -math.log(p[gt_class] / (1 - p_bg))
            expected = -math.log(1 - p_bg)
        assert of_object == pytest.approx(weight * expected, rel=1e-4)
        assert both == pytest.approx(weight * (expected + of_class), rel=1e-4)
    assert 0 < num_fg < 45


def test_objectness_of_a_sure_model_is_finite():
    # Background is all but certain, and then all but impossible: -log(1 - p) and -log p are the
    # difference of the scores, which float32 probabilities have no digits for.
    scores = torch.tensor([[-60.0, -60, -60, 60], [60, -60, -60, -60]])
    losses = objectness_losses(make_predictor(), scores, torch.tensor([0, NUM_CLASSES]))
    # An object is one of three classes, whose probabilities are equal in the first RoI.
    assert losses.tolist() == pytest.approx([120 - math.log(3), 120])


@has_sigmoid_loss
def test_objectness_is_a_part_of_the_sigmoid_loss():
    predictor = make_predictor(use_sigmoid_ce=True)
    scores = torch.tensor([[1.0, -2, 0.5, 9], [1.0, -2, 0.5, 9]])
    objectness = objectness_losses(predictor, scores, torch.tensor([1, NUM_CLASSES])).tolist()
    p = [1 / (1 + math.exp(-x)) for x in (1.0, -2, 0.5)]
    # On an object the term of its class, and on background all of them.
    assert objectness[0] == pytest.approx(-math.log(p[1]), rel=1e-5)
    assert objectness[1] == pytest.approx(-sum(math.log(1 - x) for x in p), rel=1e-5)
