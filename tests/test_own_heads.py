"""
ROI heads of a user's own: what is mined is what is trained, or they are refused.
"""

import pytest
import torch
from conftest import (
    FAMILIES,
    INPUT_SHAPE,
    MASK_HEAD,
    NUM_CLASSES,
    add_masks_and_keypoints,
    build_heads,
    heads_config,
    make_inputs,
    train_step,
)
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads

from ohem_d2 import HeuristicROIHeads, OHEMCascadeROIHeads, OHEMMixin
from ohem_d2.modeling.roi_heads.ignore_regions import IgnoreRegionsMixin
from ohem_d2.modeling.test_time import IterativeROIHeads


class OwnForward(StandardROIHeads):
    """
    An argument, a loss and a forward of their own, none of which concerns mining.
    """

    @configurable
    def __init__(self, *, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "factor": cfg.OWN_FACTOR}

    def forward(self, images, features, proposals, targets=None):
        proposals, losses = super().forward(images, features, proposals, targets)
        losses["loss_own"] = self.factor * features["p2"].sum()
        return proposals, losses


class OHEMOwnForward(OHEMMixin, OwnForward):
    pass


def test_heads_of_a_user_are_mined_with_the_mixin_before_them():
    cfg = heads_config(MODEL__OHEM__NMS_THRESH=0.3)
    ohem = build_heads(cfg)
    cfg.OWN_FACTOR = 0.5
    torch.manual_seed(0)
    heads = OHEMOwnForward(cfg, INPUT_SHAPE).train()
    heads.load_state_dict(ohem.state_dict())
    features, proposals, targets = make_inputs()
    rois, losses, scalars = train_step(heads, features, proposals, targets)
    expected_rois, expected, expected_scalars = train_step(ohem, features, proposals, targets)
    for a, b in zip(rois, expected_rois, strict=True):
        assert torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor)
    assert losses.pop("loss_own") == 0.5 * features["p2"].sum()
    assert losses == expected
    assert scalars == expected_scalars


class WithContext(StandardROIHeads):
    """
    Pooled features have those of the whole image added.
    """

    def _forward_box(self, features, proposals):
        predictions = self._predict(features, proposals)
        if self.training:
            return self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0]

    def _predict(self, features, proposals):
        pooled = self.box_pooler(
            [features[f] for f in self.box_in_features], [x.proposal_boxes for x in proposals]
        )
        context = features["p3"].mean(dim=(2, 3), keepdim=True)
        pooled = pooled + 5 * context.repeat_interleave(
            torch.tensor([len(x) for x in proposals]), dim=0
        )
        return self.box_predictor(self.box_head(pooled))


class OHEMWithContext(OHEMMixin, WithContext):
    def forward_rois(self, features, proposals, stage=0):
        return self._predict(features, proposals)


ROI_HEADS_REGISTRY.register(OHEMWithContext)


def test_a_box_branch_of_its_own_is_refused():
    class Mixed(OHEMMixin, WithContext):
        pass

    with pytest.raises(ValueError, match="Mixed has a _forward_box of its own.*forward_rois"):
        Mixed(heads_config(), INPUT_SHAPE)
    # Without mining, too, where the loss or the prediction of a RoI is asked for.
    heads = WithContext(heads_config(), INPUT_SHAPE)
    with pytest.raises(ValueError, match="WithContext has a _forward_box of its own"):
        IterativeROIHeads(roi_heads=heads)


def test_a_box_branch_of_its_own_is_mined_as_it_is_trained():
    """
    With all RoIs kept, the mean loss of the read-only pass is the training loss.
    """
    heads = build_heads(
        heads_config(
            MODEL__ROI_HEADS__NAME="OHEMWithContext",
            MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE=1000,
            MODEL__OHEM__NMS_THRESH=1.0,
            MODEL__OHEM__MINING_BATCH_SIZE=7,
        )
    )
    features, proposals, targets = make_inputs()
    _, losses, scalars = train_step(heads, features, proposals, targets)
    total = losses["loss_cls"] + losses["loss_box_reg"]
    torch.testing.assert_close(total.item(), scalars["ohem/mean_loss"], rtol=1e-4, atol=0)

    stock = build_heads(heads_config(MODEL__OHEM__NMS_THRESH=1.0))
    _, _, other = train_step(stock, features, proposals, targets)
    assert abs(other["ohem/mean_loss"] - total.item()) > 0.1  # the context counts


class OwnLabels(StandardROIHeads):
    """
    Nothing is background.
    """

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        return [x[x.gt_classes < self.num_classes] for x in sampled]


def test_labels_of_its_own_are_refused():
    class Mixed(OHEMMixin, OwnLabels):
        pass

    with pytest.raises(
        ValueError, match=r"OwnLabels has a label_and_sample.*Give Mixed a label_proposals"
    ):
        Mixed(heads_config(), INPUT_SHAPE)

    class Heuristic(OHEMMixin, HeuristicROIHeads):
        pass

    with pytest.raises(ValueError, match="HeuristicROIHeads has a label_and_sample_proposals"):
        Heuristic(heads_config(), INPUT_SHAPE)


@ROI_HEADS_REGISTRY.register()
class OHEMOwnLabels(OHEMMixin, OwnLabels):
    def label_proposals(self, proposals, targets, stage=0):
        labeled = super().label_proposals(proposals, targets, stage)
        return [x[x.gt_classes < self.num_classes] for x in labeled]


def test_labels_of_its_own_are_those_that_are_mined():
    heads = build_heads(heads_config(MODEL__ROI_HEADS__NAME="OHEMOwnLabels"))
    rois, _, scalars = train_step(heads, *make_inputs())
    assert sum(map(len, rois)) > 0
    assert all((x.gt_classes < NUM_CLASSES).all() for x in rois)
    assert scalars["ohem/num_bg_rois"] == 0


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeOwnLabels(OHEMCascadeROIHeads):
    def label_proposals(self, proposals, targets, stage=0):
        return [x[:5] for x in super().label_proposals(proposals, targets, stage)]


def test_each_stage_of_a_cascade_asks_for_labels():
    options = {**FAMILIES["CascadeROIHeads"], "MODEL__ROI_HEADS__NAME": "OHEMCascadeOwnLabels"}
    _, _, scalars = train_step(build_heads(heads_config(**options)), *make_inputs())
    rois = [scalars[f"{stage}ohem/num_rois"] for stage in ("", "stage1/", "stage2/")]
    assert rois == [5, 5, 5]


@pytest.mark.parametrize("mixin", [OHEMMixin, IgnoreRegionsMixin])
def test_a_mixin_after_the_heads(mixin):
    with pytest.raises(
        TypeError, match=rf"name it first, class Own\({mixin.__name__}, OwnForward\)"
    ):
        type("Own", (OwnForward, mixin), {})


def test_the_mixin_names_the_heads_that_a_cascade_needs():
    class Mixed(OHEMMixin, CascadeROIHeads):
        pass

    with pytest.raises(ValueError, match="Mixed is a CascadeROIHeads.*: name OHEMCascadeROIHeads"):
        Mixed(heads_config(**FAMILIES["CascadeROIHeads"]), INPUT_SHAPE)


def test_heads_of_which_nothing_is_known():
    class Mixed(OHEMMixin):
        pass

    with pytest.raises(ValueError, match="Mixed is not a StandardROIHeads, Res5ROIHeads or Casc"):
        Mixed(num_classes=1, batch_size_per_image=1, positive_fraction=1, proposal_matcher=None)


@pytest.mark.parametrize("foreground", ["mined", "sampled"])
@pytest.mark.parametrize("warmup_iters", [0, 1])
def test_masks_are_trained_on_predicted_boxes(foreground, warmup_iters, monkeypatch):
    heads = build_heads(
        heads_config(
            MODEL__OHEM__FOREGROUND=foreground,
            MODEL__OHEM__WARMUP_ITERS=warmup_iters,
            MODEL__ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES=True,
            **MASK_HEAD,
        )
    )
    seen = []
    forward_box, forward_mask = heads._forward_box, heads._forward_mask

    def spy_on_boxes(features, proposals):
        boxes = [x.proposal_boxes.tensor.clone() for x in proposals]
        losses = forward_box(features, proposals)
        seen.append((boxes, [x.proposal_boxes.tensor.clone() for x in proposals]))
        return losses

    def spy_on_masks(features, proposals):
        seen.append([x.proposal_boxes.tensor for x in proposals])
        return forward_mask(features, proposals)

    monkeypatch.setattr(heads, "_forward_box", spy_on_boxes)
    monkeypatch.setattr(heads, "_forward_mask", spy_on_masks)
    features, proposals, targets = make_inputs()
    add_masks_and_keypoints(targets)
    train_step(heads, features, proposals, targets)
    (boxes, predicted), with_masks = seen
    for x, y, z in zip(boxes, predicted, with_masks, strict=True):
        assert not torch.equal(x, y) and torch.equal(y, z)
