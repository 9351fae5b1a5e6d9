import copy
import inspect

import numpy as np
import pytest
import torch
from conftest import (
    FAMILIES,
    IMAGE_SIZE,
    INPUT_SHAPE,
    KEYPOINT_HEAD,
    MASK_HEAD,
    NUM_CLASSES,
    PROPOSALS,
    add_masks_and_keypoints,
    build_heads,
    devices,
    families,
    gradients,
    has_sigmoid_loss,
    heads_config,
    make_features,
    make_inputs,
    make_proposals,
    make_targets,
    train_step,
)
from detectron2.config import get_cfg
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from oracles import select_slowly
from torch import nn

from ohem_d2 import OHEMMixin, OHEMROIHeads, add_ohem_config
from ohem_d2.modeling.roi_heads import compute_roi_losses, roi_losses
from ohem_d2.modeling.roi_heads.box_branch import box_head


@devices
@families
@pytest.mark.parametrize("mining_batch_size", [0, 10])
def test_all_rois_are_trained_on_without_nms_and_with_a_large_batch(
    device, family, mining_batch_size
):
    options = {**FAMILIES[family], "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000}
    ohem = build_heads(
        heads_config(
            **options,
            MODEL__OHEM__NMS_THRESH=1.0,
            MODEL__OHEM__MINING_BATCH_SIZE=mining_batch_size,
        ),
        device=device,
    )
    # detectron2's own sampling takes all RoIs if both shares of the batch are large enough.
    options["MODEL__ROI_HEADS__NAME"] = family
    everything = build_heads(
        heads_config(**options, MODEL__ROI_HEADS__POSITIVE_FRACTION=0.5), device=device
    )
    for heads in (ohem, everything):
        # The read-only pass normalizes by the running statistics, as both do here.
        for layer in heads.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    features, proposals, targets = make_inputs(device=device)
    _, losses, _ = train_step(ohem, features, proposals, targets)
    feature_grad = features["p3"].grad.clone()
    features["p3"].grad = None
    _, expected, scalars = train_step(everything, features, proposals, targets)

    # With the ground truth, these are all RoIs.
    assert scalars["roi_head/num_fg_samples"] + scalars["roi_head/num_bg_samples"] == 100 / 3
    assert losses.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name])
    for name, grad in gradients(everything).items():
        torch.testing.assert_close(gradients(ohem)[name], grad, msg=name)
    torch.testing.assert_close(feature_grad, features["p3"].grad)


@devices
def test_the_hardest_are_trained_on(device):
    heads = build_heads(heads_config(MODEL__OHEM__NMS_THRESH=1.0), device=device)
    features, proposals, targets = make_inputs(device=device)
    rois, _, _ = train_step(heads, features, proposals, targets)

    for image, (rois_per_image, proposals_per_image, targets_per_image) in enumerate(
        zip(rois, proposals, targets, strict=True)
    ):
        # Each RoI alone, by the predictor's own training loss.
        boxes = Boxes.cat([proposals_per_image.proposal_boxes, targets_per_image.gt_boxes])
        losses = []
        for i in range(len(boxes)):
            one = Instances(
                IMAGE_SIZE, proposal_boxes=boxes[i], objectness_logits=boxes.tensor[i, :1]
            )
            (one,) = heads.label_proposals([one], [targets_per_image])
            one = one[:1]  # without the ground truth that was appended
            x = heads.box_pooler(
                [features[f][image : image + 1] for f in INPUT_SHAPE], [one.proposal_boxes]
            )
            with EventStorage():
                loss = heads.box_predictor.losses(heads.box_predictor(heads.box_head(x)), [one])
            losses.append(sum(loss.values()).item())
        hardest = np.argsort(losses)[::-1][:16]
        torch.testing.assert_close(
            rois_per_image.proposal_boxes.tensor, boxes.tensor[hardest.copy()], rtol=0, atol=0
        )


def test_the_ranking_weight_does_not_change_the_training_loss():
    features, proposals, targets = make_inputs()
    by_boxes = build_heads(heads_config(MODEL__OHEM__BOX_LOSS_WEIGHT=1e6))
    rois, _, _ = train_step(by_boxes, features, proposals, targets)
    # Only foreground has a box regression loss, so foreground comes first.
    for rois_per_image in rois:
        is_fg = (rois_per_image.gt_classes < NUM_CLASSES).long()
        assert (is_fg.diff() <= 0).all()
    assert (rois[0].gt_classes[:3] < NUM_CLASSES).all()

    # The losses are those of the predictor on the kept RoIs, unweighted.
    with EventStorage():
        losses = by_boxes._forward_box(features, rois)
    by_boxes.ohem_box_loss_weight = 7.0
    with EventStorage():
        assert losses == by_boxes._forward_box(features, rois)


@pytest.mark.parametrize(
    "nms_thresh, per_class, positive_fraction, box_weight",
    [
        (0.7, False, None, 1.0),
        (0.3, False, None, 1.0),
        (0.3, True, None, 1.0),
        (1.0, False, 0.1, 1.0),  # of the 16, one is foreground
        (0.7, False, None, 0.1),
        (0.3, True, 0.5, 5.0),
    ],
)
def test_settings_reach_the_selection(nms_thresh, per_class, positive_fraction, box_weight):
    cfg = heads_config(
        MODEL__OHEM__NMS_THRESH=nms_thresh,
        MODEL__OHEM__NMS_PER_CLASS=per_class,
        MODEL__OHEM__POSITIVE_FRACTION=positive_fraction,
        MODEL__OHEM__BOX_LOSS_WEIGHT=box_weight,
    )
    heads = build_heads(cfg)
    features, proposals, targets = make_inputs()
    labeled = heads.label_proposals(proposals, targets)
    scored = heads.compute_roi_losses(features, labeled)
    for rois, kept in zip(scored, heads.select_hard_rois(scored), strict=True):
        expected = select_slowly(
            rois.proposal_boxes.tensor.double().numpy(),
            (rois.loss_cls + box_weight * rois.loss_box_reg).numpy(),
            rois.gt_classes.numpy(),
            16,
            nms_thresh,
            per_class,
            positive_fraction,
        )
        assert torch.equal(kept.proposal_boxes.tensor, rois.proposal_boxes.tensor[expected])


@families
def test_the_hardest_background_is_added_to_sampled_foreground(family):
    heads = build_heads(
        heads_config(
            **FAMILIES[family],
            MODEL__OHEM__FOREGROUND="sampled",
            MODEL__OHEM__NMS_THRESH=0.5,
            MODEL__ROI_HEADS__POSITIVE_FRACTION=0.25,
        )
    )
    features, proposals, targets = make_inputs()
    labeled = heads.label_proposals(proposals, targets)
    for rois in labeled:
        rois.index = torch.arange(len(rois))
    scored = heads.compute_roi_losses(features, labeled)  # all of them, unlike in training
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        sampled, background = heads.sample_foreground(heads.sample_pool(labeled))
        hard = heads.select_hard_rois(heads.compute_roi_losses(features, background), sampled)
        draws.append(sampled[0].index.tolist())
        for rois, fg, bg in zip(scored, sampled, hard, strict=True):
            is_fg = rois.gt_classes != NUM_CLASSES
            assert is_fg[fg.index].all() and not is_fg[bg.index].any()
            assert len(fg.index.unique()) == len(fg) == min(int(is_fg.sum()), 4)  # a quarter of 16
            # What NMS leaves of the background, the hardest first. Foreground removes none.
            inds = (~is_fg).nonzero()[:, 0]
            expected = select_slowly(
                rois.proposal_boxes.tensor[inds].double().numpy(),
                (rois.loss_cls + rois.loss_box_reg)[inds].numpy(),
                rois.gt_classes[inds].numpy(),
                16 - len(fg),
                0.5,
                False,
                None,
            )
            assert torch.equal(bg.index, inds[expected])
    assert draws[0] != draws[1]


@families
def test_the_warm_up_is_the_training_of_the_parent_class(family):
    options = {**FAMILIES[family], "MODEL__ROI_HEADS__POSITIVE_FRACTION": 0.25}
    heads = build_heads(heads_config(**options, MODEL__OHEM__WARMUP_ITERS=2))
    mining = build_heads(heads_config(**options))
    options["MODEL__ROI_HEADS__NAME"] = family
    parent = build_heads(heads_config(**options))
    modes = []
    box_head(heads).register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    inputs = make_inputs()
    for iteration in range(4):
        results = []
        other = parent if iteration < 2 else mining
        other.load_state_dict(heads.state_dict())  # batch norm has statistics of the last step
        for module in (heads, other):
            torch.manual_seed(iteration)
            with EventStorage(iteration) as storage:
                _, losses = module(None, *inputs)
                sum(losses.values()).backward()
            results.append((losses, {k: v for k, (v, _) in storage.latest().items()}))
        assert results[0] == results[1]
        for p, expected in zip(heads.parameters(), other.parameters(), strict=True):
            assert torch.equal(p.grad, expected.grad)
            p.grad = expected.grad = None
        assert ("ohem/num_kept" in results[0][1]) == (iteration >= 2)
    # Without a read-only pass before the end of the warm-up.
    assert modes == [True, True, False, True, False, True]


@pytest.mark.parametrize(
    "lr_warmup, max_iter, expected", [(50, 7000, 700), (1000, 5000, 1000), (50, 700, 150)]
)
def test_the_default_warm_up_is_the_longest_of_three(lr_warmup, max_iter, expected):
    cfg = heads_config(SOLVER__WARMUP_ITERS=lr_warmup, SOLVER__MAX_ITER=max_iter)
    cfg.MODEL.OHEM.WARMUP_ITERS = None
    assert build_heads(cfg).ohem_warmup_iters == expected


@has_sigmoid_loss
@pytest.mark.parametrize("batch_size", [0, 7])
def test_federated_loss_counts_the_same_classes_in_all_batches(batch_size):
    heads = build_heads(heads_config(MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE=True))
    predictor = heads.box_predictor
    predictor.use_fed_loss, predictor.fed_loss_num_classes = True, 3
    predictor.register_buffer("fed_loss_cls_weights", torch.ones(NUM_CLASSES))
    targets = make_targets([1])
    features, proposals = make_features(1), make_proposals(targets, [30])
    rois = heads.label_proposals(proposals, targets)

    torch.manual_seed(3)
    (scored,) = compute_roi_losses(heads, features, rois, batch_size)
    torch.manual_seed(3)
    with EventStorage():
        expected = heads._forward_box(features, rois)
    torch.testing.assert_close(scored.loss_cls.mean(), expected["loss_cls"])
    predictor.use_fed_loss = False
    (of_all_classes,) = compute_roi_losses(heads, features, rois)
    assert scored.loss_cls.mean() < of_all_classes.loss_cls.mean()


class HeadWithEverything(nn.Sequential):
    """
    Dropout, batch norm and detectron2's synchronized batch norm.
    """

    def __init__(self):
        super().__init__(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Dropout2d(),
            nn.Conv2d(8, 8, 3),
            NaiveSyncBatchNorm(8),
            nn.Flatten(),
            nn.Linear(32, 16),
            nn.BatchNorm1d(16),
            nn.Dropout(),
        )


def test_read_only_means_read_only():
    heads = build_heads(heads_config())
    heads.box_head = HeadWithEverything()
    features, proposals, targets = make_inputs()
    train_step(heads, features, proposals, targets)  # so that there are gradients and statistics
    assert heads.box_head[1].num_batches_tracked == 1  # of the training pass alone

    before = copy.deepcopy(heads)
    grads = gradients(heads)
    feature_grad = features["p2"].grad.clone()
    rois = heads.compute_roi_losses(features, heads.label_proposals(proposals, targets))
    heads.select_hard_rois(rois)

    assert heads.state_dict().keys() == before.state_dict().keys()
    for name, value in heads.state_dict().items():
        torch.testing.assert_close(value, before.state_dict()[name], rtol=0, atol=0, msg=name)
    for name, grad in gradients(heads).items():
        torch.testing.assert_close(grad, grads[name], rtol=0, atol=0, msg=name)
    torch.testing.assert_close(features["p2"].grad, feature_grad, rtol=0, atol=0)
    assert all(module.training for module in heads.modules())


def test_dropout_is_active_in_the_read_only_pass():
    heads = build_heads(heads_config())
    heads.box_head = nn.Sequential(heads.box_head, nn.Dropout())
    features, proposals, targets = make_inputs()
    rois = heads.label_proposals(proposals, targets)
    first, second = (heads.compute_roi_losses(features, rois)[0].loss_cls for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("batch_size", [1, 7, 25, 100, 1000])
def test_mining_batch_size_does_not_change_the_losses(batch_size):
    heads = build_heads(heads_config())
    heads.box_head = nn.Sequential(nn.BatchNorm2d(8), heads.box_head)
    features, proposals, targets = make_inputs()
    rois = heads.label_proposals(proposals, targets)

    sizes = []
    handle = heads.box_head.register_forward_hook(lambda _m, _in, out: sizes.append(len(out)))
    scored = compute_roi_losses(heads, features, rois, batch_size)
    handle.remove()
    assert sum(sizes) == 100 and max(sizes) == min(batch_size, 100)
    for x, expected in zip(scored, compute_roi_losses(heads, features, rois), strict=True):
        for name in ("loss_cls", "loss_box_reg"):
            torch.testing.assert_close(x.get(name), expected.get(name))


@devices
@families
def test_read_only_pass_in_half_precision(device, family):
    heads, others = (
        build_heads(
            heads_config(**FAMILIES[family], MODEL__OHEM__MINING_HALF_PRECISION=half), device=device
        )
        for half in (True, False)
    )
    features, proposals, targets = make_inputs(device=device)
    rois = heads.label_proposals(proposals, targets)
    types = []
    linear = next(x for x in box_head(heads).modules() if isinstance(x, (nn.Linear, nn.Conv2d)))
    linear.register_forward_hook(lambda _m, _in, out: types.append(out.dtype))
    with EventStorage():
        scored = heads.compute_roi_losses(features, rois)
        train_step(heads, features, proposals, targets)
    half = types[0]
    assert half in (torch.bfloat16, torch.float16)
    assert set(types[:-1]) == {half} and types[-1] == torch.float32  # the last: what is trained

    # 8 bits of a score are right, so of a loss of some 5 are the first two digits.
    expected = others.compute_roi_losses(features, rois)
    assert scored[0].loss_cls.dtype == torch.float32
    for name in ("loss_cls", "loss_box_reg"):
        actual, exact = (torch.cat([x.get(name) for x in y]) for y in (scored, expected))
        assert not torch.equal(actual, exact)
        torch.testing.assert_close(actual, exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "objects, proposals, kept",
    [
        pytest.param((0, 0), (20, 20), [16, 16], id="no objects"),
        pytest.param((2, 0), (0, 0), [2, 0], id="no proposals"),
        pytest.param((0, 0), (0, 0), [0, 0], id="nothing at all"),
        pytest.param((1, 3), (0, 5), [1, 8], id="fewer than the batch"),
    ],
)
@families
def test_images_with_little_to_learn_from(family, objects, proposals, kept):
    heads = build_heads(heads_config(**FAMILIES[family], MODEL__OHEM__NMS_THRESH=1.0))
    rois, losses, scalars = train_step(heads, *make_inputs(objects, proposals))
    assert family == "Res5ROIHeads" or [len(x) for x in rois] == kept
    assert all(loss.isfinite() for loss in losses.values())
    # Every parameter has a gradient, without which DistributedDataParallel would stall.
    assert all(grad.isfinite().all() for grad in gradients(heads).values())
    assert all(np.isfinite(x) for x in scalars.values())
    assert scalars["ohem/num_kept"] == sum(kept) / 2


@has_sigmoid_loss
@families
def test_nothing_to_learn_from_with_the_sigmoid_loss(family):
    heads = build_heads(heads_config(**FAMILIES[family], MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE=True))
    train_step(heads, *make_inputs((0, 0), (0, 0)))
    assert all((grad == 0).all() for grad in gradients(heads).values())


# IoU below .5 is background, from .5 to .6 ignored, and above it foreground.
IGNORING = {
    "MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.5, 0.6],
    "MODEL__ROI_HEADS__IOU_LABELS": [0, -1, 1],
    "MODEL__OHEM__NMS_THRESH": 1.0,
}


def test_ignored_rois_are_not_mined():
    # An object and proposals on it, of an IoU of 1 (the object itself), .9, .55 and .1.
    targets = [
        Instances(IMAGE_SIZE, gt_boxes=Boxes([[10, 10, 50, 50]]), gt_classes=torch.tensor([1]))
    ]
    boxes = Boxes([[10.0, 10, 50, 46], [10, 10, 50, 32], [10, 10, 50, 14]])
    proposals = [Instances(IMAGE_SIZE, proposal_boxes=boxes, objectness_logits=torch.zeros(3))]
    heads = build_heads(heads_config(**IGNORING))
    (rois,), losses, scalars = train_step(heads, make_features(1), proposals, targets)
    bottoms_and_labels = zip(
        rois.proposal_boxes.tensor[:, 3].tolist(), rois.gt_classes.tolist(), strict=True
    )
    assert sorted(bottoms_and_labels) == [
        (14.0, NUM_CLASSES),
        (46.0, 1),
        (50.0, 1),
    ]
    assert scalars["ohem/num_rois"] == 3
    assert all(loss.isfinite() for loss in losses.values())


def test_only_ignored_rois():
    # Everything is ignored, and so is the ground truth that is not appended.
    heads = build_heads(
        heads_config(
            MODEL__ROI_HEADS__IOU_LABELS=[-1, -1],
            MODEL__ROI_HEADS__PROPOSAL_APPEND_GT=False,
        )
    )
    rois, _, scalars = train_step(heads, *make_inputs())
    assert [len(x) for x in rois] == [0, 0, 0]
    assert scalars["ohem/num_rois"] == 0
    assert all((grad == 0).all() for grad in gradients(heads).values())


@families
def test_proposals_of_the_caller_are_left_alone(family):
    heads = build_heads(
        heads_config(**FAMILIES[family], MODEL__ROI_HEADS__PROPOSAL_APPEND_GT=False)
    )
    features, proposals, targets = make_inputs()
    train_step(heads, features, proposals, targets)
    assert [len(x) for x in proposals] == list(PROPOSALS)
    assert set(proposals[0].get_fields()) == {"proposal_boxes", "objectness_logits"}
    assert set(targets[0].get_fields()) == {"gt_boxes", "gt_classes"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_losses_surface(value):
    heads = build_heads(heads_config())
    features, proposals, targets = make_inputs()
    with torch.no_grad():  # the class of the first object, and of no other
        targets[0].gt_classes[:] = torch.tensor([0, 1, 2])
        targets[2].gt_classes[:] = 1
        heads.box_predictor.bbox_pred.bias[0] = value
    _, losses, _ = train_step(heads, features, proposals, targets)
    assert not losses["loss_box_reg"].isfinite()


@devices
@pytest.mark.parametrize("head", ["FastRCNNConvFCHead", "with batch norm"])
def test_mixed_precision(device, head):
    heads = build_heads(heads_config(), device=device)
    if head != "FastRCNNConvFCHead":
        heads.box_head = HeadWithEverything().to(device)
    seen = {}

    def remember(predictor, predictions, proposals, class_mask):
        seen["predictions"] = predictions[0].dtype
        losses = roi_losses(predictor, predictions, proposals, class_mask)
        seen["losses"] = losses["loss_cls"].dtype
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ohem_d2.modeling.roi_heads.read_only_pass.roi_losses", remember)
        with torch.autocast(device, torch.bfloat16):
            train_step(heads, *make_inputs(device=device))
    assert seen == {"predictions": torch.bfloat16, "losses": torch.float32}
    # The weights that autocast casts as well: it may not reuse what was cast without gradients.
    for name, p in heads.named_parameters():
        assert p.grad is not None and (p.grad != 0).any(), name


@pytest.mark.parametrize("family", ["StandardROIHeads", "CascadeROIHeads"])
def test_other_heads_train_on_the_mined_foreground(family):
    heads = build_heads(heads_config(**FAMILIES[family], **MASK_HEAD, **KEYPOINT_HEAD))
    features, proposals, targets = make_inputs()
    add_masks_and_keypoints(targets)
    rois, losses, _ = train_step(heads, features, proposals, targets)

    assert losses["loss_mask"] > 0 and losses["loss_keypoint"] > 0
    assert not rois[1].has("gt_masks")  # of the image without objects
    for image in (0, 2):
        rois_per_image, targets_per_image = rois[image], targets[image]
        assert not rois_per_image.has("gt_inds")
        assert len(rois_per_image.gt_masks) == len(rois_per_image)
        is_fg = rois_per_image.gt_classes < NUM_CLASSES
        assert is_fg.any()
        # Each foreground RoI has the mask and keypoints of the object whose box it has.
        for i in is_fg.nonzero()[:, 0].tolist():
            roi = rois_per_image[i]
            (j,) = (targets_per_image.gt_boxes.tensor == roi.gt_boxes.tensor).all(1).nonzero()[0]
            assert torch.equal(roi.gt_masks.tensor[0], targets_per_image.gt_masks.tensor[j])
            assert torch.equal(roi.gt_keypoints.tensor[0], targets_per_image.gt_keypoints.tensor[j])
            assert roi.gt_classes == targets_per_image.gt_classes[j]


def test_what_is_logged():
    heads = build_heads(heads_config(MODEL__OHEM__NMS_THRESH=0.3))
    features, proposals, targets = make_inputs()
    labeled = heads.label_proposals(proposals, targets)

    def mean_loss(rois):
        scored = compute_roi_losses(heads, features, rois)
        return torch.cat([x.loss_cls + x.loss_box_reg for x in scored]).mean().item()

    def variation_of_background():
        scored = compute_roi_losses(heads, features, labeled)
        losses = torch.cat([x.loss_cls[x.gt_classes == NUM_CLASSES] for x in scored])
        return (losses.std() / losses.mean()).item()

    rois, _, scalars = train_step(heads, features, proposals, targets)

    def count_fg(instances):
        return sum((x.gt_classes < NUM_CLASSES).sum().item() for x in instances)

    num_kept = sum(len(x) for x in rois)
    expected = {
        "ohem/num_rois": 100 / 3,
        "ohem/num_fg_rois": count_fg(labeled) / 3,
        "ohem/num_bg_rois": (100 - count_fg(labeled)) / 3,
        "ohem/num_kept": num_kept / 3,
        "roi_head/num_fg_samples": count_fg(rois) / 3,
        "roi_head/num_bg_samples": (num_kept - count_fg(rois)) / 3,
        "ohem/fg_share": count_fg(labeled) / 100,
        "ohem/fg_share_kept": count_fg(rois) / num_kept,
        "ohem/mean_loss": mean_loss(labeled),
        "ohem/mean_loss_kept": mean_loss(rois),
        "ohem/bg_loss_cv": variation_of_background(),
    }
    for name, value in expected.items():
        assert scalars[name] == pytest.approx(value), name

    # The share that NMS removed: with a batch that has room, what is kept is what it left.
    heads.batch_size_per_image = 1000
    _, _, scalars = train_step(heads, features, proposals, targets)
    assert 0.1 < scalars["ohem/nms_removed"] < 0.9
    assert scalars["ohem/nms_removed"] == pytest.approx(1 - scalars["ohem/num_kept"] / (100 / 3))


@families
def test_inference_is_that_of_detectron2(family):
    options = dict(FAMILIES[family])
    ohem = build_heads(heads_config(**options)).eval()
    options["MODEL__ROI_HEADS__NAME"] = family
    theirs = build_heads(heads_config(**options)).eval()
    features, proposals, _ = make_inputs()
    with torch.no_grad():
        (outputs, _), (expected, _) = (heads(None, features, proposals) for heads in (ohem, theirs))
    for a, b in zip(outputs, expected, strict=True):
        assert len(a) > 0
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)


def test_defaults():
    # The paper's, and a warm-up.
    expected = {
        "NMS_THRESH": 0.7,
        "NMS_PER_CLASS": False,
        "POOL_SIZE": 0,
        "FOREGROUND": "mined",
        "POSITIVE_FRACTION": None,
        "WARMUP_ITERS": None,
        "BOX_LOSS_WEIGHT": 1.0,
        "MINING_BATCH_SIZE": 512,
        "MINING_HALF_PRECISION": False,
    }
    cfg = get_cfg()
    add_ohem_config(cfg)
    assert dict(cfg.MODEL.OHEM) == expected
    expected["WARMUP_ITERS"] = 0  # of heads_config, and of plain arguments
    heads = build_heads(heads_config())
    assert isinstance(heads, OHEMROIHeads)
    assert {k: getattr(heads, f"ohem_{k.lower()}") for k in expected} == expected
    # Of LazyConfig as well, which has no keys.
    arguments = inspect.signature(OHEMMixin.__init__).parameters
    assert {k: arguments[f"ohem_{k.lower()}"].default for k in expected} == expected


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("MODEL.OHEM.NMS_THRESH", -0.1, "from 0 to 1"),
        ("MODEL.OHEM.NMS_THRESH", 1.5, "from 0 to 1"),
        ("MODEL.OHEM.NMS_THRESH", float("nan"), "from 0 to 1"),
        ("MODEL.OHEM.POSITIVE_FRACTION", 1.1, "None or from 0 to 1"),
        ("MODEL.OHEM.POSITIVE_FRACTION", -1, "None or from 0 to 1"),
        ("MODEL.OHEM.POSITIVE_FRACTION", "many", "None or from 0 to 1"),
        ("MODEL.OHEM.BOX_LOSS_WEIGHT", -1.0, "a number that is not negative"),
        ("MODEL.OHEM.BOX_LOSS_WEIGHT", float("inf"), "a number that is not negative"),
        ("MODEL.OHEM.MINING_BATCH_SIZE", -1, "a whole number that is not negative"),
        ("MODEL.OHEM.WARMUP_ITERS", -1, "a whole number that is not negative"),
        ("MODEL.OHEM.FOREGROUND", "all", "'sampled' or 'mined'"),
        ("MODEL.ROI_HEADS.IGNORE_IOA_THRESH", 1.1, "from 0 to 1"),
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 0, "1 or more"),
    ],
)
def test_wrong_values_are_named(key, value, allowed):
    with pytest.raises(ValueError, match=rf"{key} is {value!r}\. It must be {allowed}"):
        build_heads(heads_config(**{key.replace(".", "__"): value}))


def test_a_ratio_of_mined_foreground_when_it_is_sampled():
    cfg = heads_config(MODEL__OHEM__FOREGROUND="sampled", MODEL__OHEM__POSITIVE_FRACTION=0.25)
    with pytest.raises(ValueError, match="Set that to 'mined', or set MODEL.ROI_HEADS.POSI"):
        build_heads(cfg)


def test_a_head_that_cannot_be_mined_is_not_built():
    with pytest.raises(ValueError, match="BBOX_REG_LOSS_TYPE is 'l3'"):
        build_heads(heads_config(MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE="l3"))


@pytest.mark.parametrize("heads", ["OHEMROIHeads", "HeuristicROIHeads"])
def test_config_without_the_keys(heads):
    with pytest.raises(KeyError, match="add_ohem_config"):
        ROI_HEADS_REGISTRY.get(heads)(get_cfg(), INPUT_SHAPE)


def test_from_plain_arguments():
    built = build_heads(heads_config())
    heads = OHEMROIHeads(
        num_classes=NUM_CLASSES,
        batch_size_per_image=16,
        positive_fraction=0.25,
        proposal_matcher=built.proposal_matcher,
        box_in_features=list(INPUT_SHAPE),
        box_pooler=built.box_pooler,
        box_head=built.box_head,
        box_predictor=built.box_predictor,
        ohem_nms_thresh=0.5,
    )
    assert heads.ohem_nms_thresh == 0.5
    rois, _, _ = train_step(heads, *make_inputs())
    assert [len(x) for x in rois] == [16, 16, 16]
