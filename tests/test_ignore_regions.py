import numpy as np
import pytest
import torch
from conftest import (
    FAMILIES,
    IMAGE_SIZE,
    NUM_CLASSES,
    build_heads,
    devices,
    families,
    heads_config,
    make_features,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st

from ohem_d2.modeling.roi_heads import remove_ignored_proposals
from ohem_d2.structures import TargetsWithIgnoreRegions


def make_boxes(boxes):
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def make_proposals(boxes):
    return Instances(
        IMAGE_SIZE, proposal_boxes=make_boxes(boxes), objectness_logits=torch.zeros(len(boxes))
    )


def make_targets(boxes, classes, regions):
    return TargetsWithIgnoreRegions(
        IMAGE_SIZE,
        make_boxes(regions),
        gt_boxes=make_boxes(boxes),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )


coordinate = st.integers(0, 12)
boxes = st.lists(
    st.tuples(coordinate, coordinate, coordinate, coordinate).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    ),
    max_size=8,
)


@given(boxes, boxes, st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_agrees_with_counting_pixels(proposals, regions, threshold):
    """
    Count pixels: a region covers a share of a RoI's.
    """

    def pixels(box):
        x0, y0, x1, y1 = box
        grid = np.zeros((12, 12), dtype=bool)
        grid[y0:y1, x0:x1] = True
        return grid

    expected = []
    for box in proposals:
        inside = pixels(box)
        shares = [(inside & pixels(r)).sum() / max(inside.sum(), 1) for r in regions]
        if not any(share > threshold for share in shares):
            expected.append(list(box))
    (left,) = remove_ignored_proposals(
        [make_proposals(proposals)], [make_targets([], [], regions)], threshold
    )
    assert left.proposal_boxes.tensor.tolist() == expected


def test_targets_without_regions_ignore_nothing():
    proposals = [make_proposals([[0, 0, 9, 9]])]
    plain = Instances(IMAGE_SIZE, gt_boxes=make_boxes([]), gt_classes=torch.zeros(0).long())
    assert remove_ignored_proposals(proposals, [plain]) == proposals


OBJECT, REGION = [10, 10, 30, 30], [40, 10, 80, 50]
# Proposals on the object, on nothing, in the region, and half in it.
ON_OBJECT, ON_NOTHING, INSIDE, HALF = (
    [10, 10, 30, 28], [0, 40, 20, 60], [50, 20, 70, 40], [30, 20, 50, 40],
)  # fmt: skip


@devices
@pytest.mark.parametrize("name", ["HeuristicROIHeads", *(x for x in FAMILIES)])
@pytest.mark.parametrize("threshold, ignored", [(0.7, [INSIDE]), (0.4, [INSIDE, HALF]), (1.0, [])])
def test_heads_do_not_train_on_them(device, name, threshold, ignored):
    options = dict(FAMILIES.get(name, {"MODEL__ROI_HEADS__NAME": name}))
    cfg = heads_config(
        **options, MODEL__OHEM__NMS_THRESH=1.0, MODEL__ROI_HEADS__IGNORE_IOA_THRESH=threshold
    )
    heads = build_heads(cfg, device=device)
    proposals = make_proposals([ON_OBJECT, ON_NOTHING, INSIDE, HALF]).to(device)
    # A second object, inside the region: its ground-truth box is trained on.
    targets = make_targets([OBJECT, [50, 22, 60, 32]], [1, 2], [REGION]).to(device)
    if name == "HeuristicROIHeads":
        with EventStorage():
            (rois,) = heads.label_and_sample_proposals([proposals], [targets])
    else:
        (rois,) = heads.label_proposals([proposals], [targets])
    expected = [
        (box, label)
        for box, label in [
            (ON_OBJECT, 1),
            (ON_NOTHING, NUM_CLASSES),
            (INSIDE, NUM_CLASSES),
            (HALF, NUM_CLASSES),
            (OBJECT, 1),
            ([50, 22, 60, 32], 2),
        ]
        if box not in ignored
    ]
    found = zip(rois.proposal_boxes.tensor.tolist(), rois.gt_classes.tolist(), strict=True)
    assert sorted(found) == sorted(expected)

    features = make_features(1, device=device)
    with EventStorage() as storage:
        _, losses = heads(None, features, [proposals], [targets])
        kept = storage.latest()["roi_head/num_bg_samples"][0]
    assert kept == sum(label == NUM_CLASSES for _, label in expected)
    assert all(x.isfinite() for x in losses.values())


def test_later_stages_of_a_cascade_ignore_them_too():
    heads = build_heads(heads_config(**FAMILIES["CascadeROIHeads"], MODEL__OHEM__NMS_THRESH=1.0))
    # Boxes do not move, so all stages have the same RoIs.
    for predictor in heads.box_predictor:
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
    targets = make_targets([OBJECT], [1], [])
    # The region covers INSIDE only in the later stages.
    proposals = heads.label_proposals([make_proposals([ON_NOTHING, INSIDE])], [targets])
    targets = make_targets([OBJECT], [1], [REGION])
    with EventStorage():
        stages = heads.mine_stages(None, make_features(1), proposals, [targets])
    assert [len(x) for (x,) in stages] == [3, 2, 2]


@families
def test_only_ignored_rois(family):
    heads = build_heads(heads_config(**FAMILIES[family]))
    targets = make_targets([], [], [[0, 0, 96, 64]])
    proposals = make_proposals([ON_OBJECT, INSIDE])
    with EventStorage():
        _, losses = heads(None, make_features(1), [proposals], [targets])
    sum(losses.values()).backward()
    assert sum(losses.values()) == 0
    assert all((p.grad == 0).all() for p in heads.parameters())
