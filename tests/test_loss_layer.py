import pytest
import torch
from conftest import (
    KEYPOINT_HEAD,
    MASK_HEAD,
    add_masks_and_keypoints,
    build_heads,
    devices,
    gradients,
    has_sigmoid_loss,
    heads_config,
    make_inputs,
    train_step,
)

from benchmarks.step_time import loss_layer  # noqa: F401  (registers its heads)


@devices
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"MODEL__OHEM__NMS_THRESH": 0.3, "MODEL__OHEM__BOX_LOSS_WEIGHT": 2.0},
        {"MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE": "giou"},
        {"MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_WEIGHT": 3.0},
        {"MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000},
        pytest.param({"MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE": True}, marks=has_sigmoid_loss),
        {**MASK_HEAD, **KEYPOINT_HEAD},
    ],
)
def test_same_gradients_as_with_the_read_only_pass(device, options):
    gradients_of, losses_of, scalars_of, feature_gradient_of = {}, {}, {}, {}
    for name in ("OHEMROIHeads", "LossLayerOHEMROIHeads"):
        heads = build_heads(heads_config(MODEL__ROI_HEADS__NAME=name, **options), device=device)
        features, proposals, targets = make_inputs(device=device)
        add_masks_and_keypoints(targets)
        _, losses_of[name], scalars_of[name] = train_step(heads, features, proposals, targets)
        gradients_of[name] = gradients(heads)
        feature_gradient_of[name] = features["p2"].grad
    for results in (gradients_of, losses_of):
        expected, found = results.values()
        assert expected.keys() == found.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], msg=key)
    torch.testing.assert_close(*feature_gradient_of.values())
    expected, found = scalars_of.values()
    for key in expected:
        # detectron2's accuracy on the RoIs of the training pass is not logged: it has all.
        if not key.startswith("fast_rcnn/"):
            assert found[key] == pytest.approx(expected[key]), key


def test_nothing_to_learn_from():
    heads = build_heads(heads_config(MODEL__ROI_HEADS__NAME="LossLayerOHEMROIHeads"))
    train_step(heads, *make_inputs((0, 0), (0, 0)))
    assert all((grad == 0).all() for grad in gradients(heads).values())


def test_inference_is_that_of_ohem_roi_heads():
    outputs = []
    for name in ("OHEMROIHeads", "LossLayerOHEMROIHeads"):
        heads = build_heads(heads_config(MODEL__ROI_HEADS__NAME=name)).eval()
        features, proposals, _ = make_inputs()
        with torch.no_grad():
            outputs.append(heads(None, features, proposals)[0])
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a.scores, b.scores)


def test_predicted_boxes_are_refused():
    cfg = heads_config(
        MODEL__ROI_HEADS__NAME="LossLayerOHEMROIHeads",
        MODEL__ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES=True,
    )
    with pytest.raises(ValueError, match="TRAIN_ON_PRED_BOXES is not supported"):
        build_heads(cfg)
