import numpy as np
import pytest
import torch
from conftest import (
    NUM_CLASSES,
    build_heads,
    heads_config,
    make_features,
    make_proposals,
    make_targets,
)
from detectron2.utils.events import EventStorage
from oracles import iou


def sample(bg_lo, targets, proposals, **options):
    heads = build_heads(
        heads_config(
            MODEL__ROI_HEADS__NAME="HeuristicROIHeads",
            MODEL__ROI_HEADS__BG_LO=bg_lo,
            MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE=1000,
            MODEL__ROI_HEADS__POSITIVE_FRACTION=0.5,
            **options,
        )
    )
    with EventStorage():
        return heads.label_and_sample_proposals(proposals, targets)


@pytest.mark.parametrize("bg_lo", [0.0, 0.1, 0.3])
def test_background_overlaps_an_object_by_bg_lo_to_half(bg_lo):
    targets = make_targets([3, 1], seed=2)
    proposals = make_proposals(targets, [200, 200], seed=2)
    rois = sample(bg_lo, targets, proposals)
    num_ignored = 0
    for rois_per_image, targets_per_image, proposals_per_image in zip(
        rois, targets, proposals, strict=True
    ):
        objects = targets_per_image.gt_boxes.tensor.numpy()
        expected = []
        boxes = proposals_per_image.proposal_boxes.tensor.numpy()
        for box in np.concatenate([boxes, objects]):  # the ground truth is added
            best = max(iou(box, x) for x in objects)
            if best >= bg_lo:
                expected.append((box.tolist(), best >= 0.5))
        found = zip(
            rois_per_image.proposal_boxes.tensor.tolist(),
            (rois_per_image.gt_classes < NUM_CLASSES).tolist(),
            strict=True,
        )
        assert sorted(found) == sorted(expected)
        num_ignored += len(boxes) + len(objects) - len(expected)
    assert (num_ignored > 0) == (bg_lo > 0)


def test_without_bg_lo_the_losses_are_those_of_detectron2():
    targets = make_targets([3, 0, 2])
    losses = []
    for name in ("HeuristicROIHeads", "StandardROIHeads"):
        heads = build_heads(heads_config(MODEL__ROI_HEADS__NAME=name))
        proposals = make_proposals(targets, [40, 25, 30])
        torch.manual_seed(1)  # of the sample
        with EventStorage():
            losses.append(heads(None, make_features(3), proposals, targets)[1])
    assert losses[0] == losses[1]


def test_image_without_objects():
    # No RoI overlaps an object: with bg_lo, none is sampled.
    targets = make_targets([0])
    proposals = make_proposals(targets, [20])
    assert len(sample(0.0, targets, proposals)[0]) == 20
    assert len(sample(0.1, targets, proposals)[0]) == 0


@pytest.mark.parametrize("bg_lo", [-0.1, 0.6, float("nan")])
def test_invalid_values(bg_lo):
    with pytest.raises(ValueError, match=r"BG_LO is .* must be from 0 to the lowest of .* \(0.5\)"):
        sample(bg_lo, [], [])
