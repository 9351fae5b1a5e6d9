"""
The pool: a limit on the RoIs that mining looks at.
"""

from collections import Counter

import pytest
import torch
from conftest import (
    FAMILIES,
    IMAGE_SIZE,
    NUM_CLASSES,
    build_heads,
    families,
    gradients,
    heads_config,
    make_features,
    make_inputs,
    make_proposals,
    make_targets,
    train_step,
)
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from oracles import select_slowly

from ohem_d2.modeling.roi_heads.box_branch import box_head

MODES = {
    "mined": {"MODEL__OHEM__FOREGROUND": "mined"},
    "1:3": {"MODEL__OHEM__POSITIVE_FRACTION": 0.25},
    "sampled": {"MODEL__OHEM__FOREGROUND": "sampled"},
}
modes = pytest.mark.parametrize("mode", MODES)
BATCH_SIZE = 16


def build(mode, pool_size, family="StandardROIHeads"):
    options = {**FAMILIES[family], **MODES[mode], "MODEL__ROI_HEADS__POSITIVE_FRACTION": 0.25}
    return build_heads(heads_config(**options, MODEL__OHEM__POOL_SIZE=pool_size))


HEADS = {mode: build(mode, 0) for mode in MODES}


def labeled_rois(num_fg, num_bg):
    """
    RoIs of one image in a random order, numbered.
    """
    gt_classes = torch.tensor([0] * num_fg + [NUM_CLASSES] * num_bg)
    count = num_fg + num_bg
    return Instances(
        IMAGE_SIZE,
        proposal_boxes=Boxes(torch.rand(count, 4)),
        gt_classes=gt_classes[torch.randperm(count)],
        index=torch.arange(count),
    )


def record_read_only_pass(heads):
    """
    Returns:
        list: empty; each forward of the read-only pass appends its number of RoIs.
    """
    counts = []

    def count(_module, args):
        if not torch.is_grad_enabled():
            counts.append(len(args[0]))

    box_head(heads).register_forward_pre_hook(count)
    return counts


@given(
    st.sampled_from(list(MODES)),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(BATCH_SIZE, 110),
)
def test_all_foreground_and_a_part_of_the_background(mode, num_fg, num_bg, pool_size):
    heads = HEADS[mode]
    heads.ohem_pool_size = pool_size
    rois = labeled_rois(num_fg, num_bg)
    (pool,) = heads.sample_pool([rois])
    if num_fg + num_bg <= pool_size:
        assert pool.index.tolist() == rois.index.tolist()
        return
    # At most a quarter where the batch has a quarter at most.
    max_fg = pool_size if mode == "mined" else int(pool_size / 4)
    expected_fg = min(num_fg, max_fg)
    assert len(pool.index.unique()) == len(pool)
    assert (pool.gt_classes != NUM_CLASSES).sum() == expected_fg
    assert len(pool) == min(expected_fg + num_bg, pool_size)
    assert torch.equal(pool.gt_classes, rois.gt_classes[pool.index])


@modes
def test_background_is_a_uniform_sample(mode):
    """
    As many RoIs as the batch: 4 foreground RoIs and 12 of 20 background RoIs.
    """
    torch.manual_seed(0)
    rois = labeled_rois(4, 20)
    heads = build(mode, BATCH_SIZE)
    draws = 2000
    counts, pairs = Counter(), Counter()
    for _ in range(draws):
        (pool,) = heads.sample_pool([rois])
        background = sorted(pool.index[pool.gt_classes == NUM_CLASSES].tolist())
        assert len(pool) == BATCH_SIZE and len(background) == 12
        counts.update(background)
        pairs.update([tuple(background[:2])])
    # Each with a probability of 12/20, so the counts are binomial; all within 4 deviations.
    assert len(counts) == 20
    deviation = (draws * 0.6 * 0.4) ** 0.5
    assert all(abs(x - 0.6 * draws) < 4 * deviation for x in counts.values())
    assert len(pairs) > 10  # not a block of neighbors


def test_more_foreground_than_the_pool():
    torch.manual_seed(0)
    rois = labeled_rois(40, 10)
    heads = build("mined", BATCH_SIZE)
    draws = [heads.sample_pool([rois])[0] for _ in range(200)]
    assert all((x.gt_classes == 0).all() and len(x) == BATCH_SIZE for x in draws)
    counts = Counter(i for x in draws for i in x.index.tolist())
    assert len(counts) == 40 and max(counts.values()) < 3 * min(counts.values())


@families
@modes
def test_a_pool_of_all_rois_is_the_paper(family, mode):
    results = []
    for pool_size in (0, 43):  # the first image has 40 proposals and 3 objects
        heads = build(mode, pool_size, family)
        torch.manual_seed(1)
        rois, losses, scalars = train_step(heads, *make_inputs())
        results.append((rois, losses, scalars, gradients(heads)))
    (rois, losses, scalars, grads), (others, *expected) = results
    assert (losses, scalars) == tuple(expected[:2])
    assert scalars["ohem/num_left_out"] == 0 or mode == "sampled"
    for x, y in zip(rois, others, strict=True):
        assert torch.equal(x.proposal_boxes.tensor, y.proposal_boxes.tensor)
    assert all(torch.equal(grad, expected[2][name]) for name, grad in grads.items())


@modes
def test_the_hardest_of_the_pool_are_kept(mode):
    heads = build(mode, 24)
    features, proposals, targets = make_inputs()
    labeled = heads.label_proposals(proposals, targets)
    torch.manual_seed(2)
    sampled, pool = heads.sample_foreground(heads.sample_pool(labeled))
    scored = heads.compute_roi_losses(features, pool)
    torch.manual_seed(2)
    kept, _, _ = train_step(heads, features, proposals, targets)
    for rois, fg, kept_per_image in zip(scored, sampled, kept, strict=True):
        assert len(rois) <= 24
        hardest = select_slowly(
            rois.proposal_boxes.tensor.double().numpy(),
            (rois.loss_cls + rois.loss_box_reg).numpy(),
            rois.gt_classes.numpy(),
            BATCH_SIZE - len(fg),
            0.7,
            False,
            0.25 if mode == "1:3" else None,
        )
        expected = torch.cat([fg.proposal_boxes.tensor, rois.proposal_boxes.tensor[hardest]])
        assert torch.equal(kept_per_image.proposal_boxes.tensor, expected)


@families
@modes
def test_only_the_pool_goes_through_the_read_only_pass(family, mode):
    heads = build(mode, 24, family)
    counts = record_read_only_pass(heads)
    features, proposals, targets = make_inputs()
    train_step(heads, features, proposals, targets)
    labeled = heads.label_proposals(proposals, targets)
    expected = [x.gt_classes for x in heads.sample_pool(labeled)]
    assert [len(x) for x in expected] == [24, 24, 24]  # of 43, 25 and 32
    # Sampled foreground is not looked at, but for a cascade, whose next stage has its boxes.
    if mode == "sampled" and family != "CascadeROIHeads":
        expected = [x[x == NUM_CLASSES] for x in expected]
    assert counts[0] == sum(map(len, expected))


def test_sampled_foreground_reaches_all_stages_of_a_cascade():
    heads = build("sampled", 24, "CascadeROIHeads")
    _, _, scalars = train_step(heads, *make_inputs())
    for prefix in ("", "stage1/"):
        assert scalars[f"{prefix}roi_head/num_fg_samples"] > 0
        assert scalars[f"{prefix}ohem/num_fg_rois"] > 0


def total_loss(rois):
    return sum(float((x.loss_cls + x.loss_box_reg).sum()) for x in rois)


@modes
def test_what_is_logged(mode):
    heads = build(mode, 24)
    features, proposals, targets = make_inputs()
    labeled = heads.label_proposals(proposals, targets)
    num_fg = sum(int((x.gt_classes != NUM_CLASSES).sum()) for x in labeled)
    torch.manual_seed(3)
    sampled, pool = heads.sample_foreground(heads.sample_pool(labeled))
    scored = heads.compute_roi_losses(features, pool)
    hard = heads.select_hard_rois(scored, sampled)
    num_seen, num_hard = sum(map(len, scored)), sum(map(len, hard))
    torch.manual_seed(3)
    kept, _, scalars = train_step(heads, features, proposals, targets)
    num_kept = sum(map(len, kept))
    num_fg_kept = sum(int((x.gt_classes != NUM_CLASSES).sum()) for x in kept)
    # 100 RoIs of three images.
    expected = {
        "ohem/num_rois": num_seen / 3,
        "ohem/num_left_out": (100 - num_seen) / 3,
        "ohem/num_fg_rois": num_fg / 3,
        "ohem/num_bg_rois": (100 - num_fg) / 3,
        "ohem/num_kept": num_kept / 3,
        "ohem/fg_share": num_fg / 100,
        "ohem/fg_share_kept": num_fg_kept / num_kept,
        "roi_head/num_fg_samples": num_fg_kept / 3,
        "ohem/mean_loss": total_loss(scored) / num_seen,
        # Sampled foreground is not looked at, so it has no part in this.
        "ohem/mean_loss_kept": total_loss(hard) / num_hard,
    }
    assert {k: scalars[k] for k in expected} == pytest.approx(expected)


@modes
def test_a_seed_repeats_it(mode):
    kept = []
    for seed in (4, 4, 5):
        heads = build(mode, 24)
        torch.manual_seed(seed)
        rois, _, _ = train_step(heads, *make_inputs())
        kept.append(torch.cat([x.proposal_boxes.tensor for x in rois]))
    assert torch.equal(kept[0], kept[1])
    assert kept[1].shape != kept[2].shape or not torch.equal(kept[1], kept[2])


@pytest.mark.parametrize("objects", [(0, 0), (3, 0)])
@modes
def test_images_without_objects_or_background(mode, objects):
    heads = build(mode, 16)
    targets = make_targets(objects)
    proposals = make_proposals(targets, [30, 0])
    _, losses, _ = train_step(heads, make_features(2), proposals, targets)
    assert all(x.isfinite() for x in losses.values())


def test_a_pool_smaller_than_the_batch():
    with pytest.raises(ValueError, match="MODEL.OHEM.POOL_SIZE is 15: too few to keep 16"):
        build("mined", 15)
    with pytest.raises(ValueError, match="MODEL.OHEM.POOL_SIZE is -1. It must be a whole number"):
        build("mined", -1)
