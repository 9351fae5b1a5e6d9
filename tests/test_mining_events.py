"""
What mining shows in training.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import (
    FAMILIES,
    IMAGE_SIZE,
    NUM_CLASSES,
    build_heads,
    heads_config,
    make_features,
    make_proposals,
    make_targets,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage, get_event_storage

from ohem_d2.modeling.roi_heads.mining_events import MiningMonitor, log_mining
from ohem_d2.visualization.hard_rois import draw_hard_rois

MEAN, STD = (100.0, 110.0, 120.0), (57.0, 58.0, 59.0)
PERIOD = {
    "VIS_PERIOD": 5,
    "MODEL__PIXEL_MEAN": MEAN,
    "MODEL__PIXEL_STD": STD,
    "MODEL__OHEM__NMS_THRESH": 1.0,
}


def make_images(count, size=IMAGE_SIZE):
    """
    Images of random pixels, normalized, and the pixels, BGR (count, 3, H, W).
    """
    pixels = torch.randint(256, (count, 3, *size)).float()
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (MEAN, STD))
    return ImageList.from_tensors(list((pixels - mean) / std), 32), pixels


def train_step(heads, iteration, objects=(3, 2)):
    targets = make_targets(objects)
    images, pixels = make_images(len(objects))
    proposals = make_proposals(targets, [30] * len(objects))
    with EventStorage(iteration) as storage:
        rois, losses = heads(images, make_features(len(objects)), proposals, targets)
    scalars = {k: v for k, (v, _) in storage.latest().items()}
    return rois, losses, scalars, storage._vis_data, pixels


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_period_and_of_no_effect(family):
    losses = {}
    for period in (0, 5):
        heads = build_heads(heads_config(**{**FAMILIES[family], **PERIOD, "VIS_PERIOD": period}))
        torch.manual_seed(0)
        for iteration in (5, 6, 9, 10):
            _, step_losses, scalars, pictures, _ = train_step(heads, iteration)
            losses[period, iteration] = {k: v.item() for k, v in step_losses.items()}
            if period == 0 or iteration % period:
                assert not pictures
                assert not any("_p50" in x or "mistaken" in x for x in scalars)
                continue
            # Only one, even for a cascade, which mines three times.
            ((name, picture, when),) = pictures
            assert (name, when) == ("ohem/hard_rois", iteration)
            assert picture.shape[0] == 3 and picture.dtype == np.uint8
            assert scalars["ohem/loss_p50"] <= scalars["ohem/loss_kept_p50"]
            mistakes = [v for k, v in scalars.items() if k.startswith("ohem/mistaken_for/")]
            assert len(mistakes) == NUM_CLASSES and sum(mistakes) == pytest.approx(1)
    assert all(losses[0, x] == losses[5, x] for x in (5, 6, 9, 10))


def make_rois(classes, loss_cls, pred_classes):
    """
    RoIs side by side, with a box regression loss of .5 each.
    """
    return Instances(
        IMAGE_SIZE,
        proposal_boxes=Boxes([[8.0 * i, 10, 8.0 * i + 6, 40] for i in range(len(classes))]),
        gt_classes=torch.tensor(classes),
        loss_cls=torch.tensor(loss_cls),
        loss_box_reg=torch.full((len(classes),), 0.5),
        pred_classes=torch.tensor(pred_classes),
    )


def test_curves():
    """
    Two images: 5 RoIs and 3, of which 3 and 1 are kept.
    """
    bg = NUM_CLASSES
    seen = [
        make_rois([0, bg, bg, bg, 1], [1.0, 2.0, 3.0, 4.0, 5.0], [0, 1, 1, 2, 1]),
        make_rois([bg, bg, 2], [6.0, 7.0, 8.0], [0, 2, 2]),
    ]
    kept = [seen[0][[4, 3, 1]], seen[1][[0]]]
    monitor = MiningMonitor(period=1, class_names=["a", "<b>", "ü"])
    with EventStorage() as storage:
        monitor.show(make_images(2)[0], make_targets([1, 1]), seen, kept, NUM_CLASSES)
    scalars = {k: v for k, (v, _) in storage.latest().items()}
    for level in (50, 90, 99):
        for name, values in (
            ("loss", np.arange(1.5, 9)),
            ("loss_kept", np.array([5.5, 4.5, 2.5, 6.5])),
        ):
            expected = np.percentile(values, level)
            assert scalars[f"ohem/{name}_p{level}"] == pytest.approx(expected)
    # The kept background: numbers 3 and 1 of the first image, 0 of the second.
    mistakes = {"a": 1 / 3, "<b>": 1 / 3, "ü": 1 / 3}
    assert {k: scalars[f"ohem/mistaken_for/{k}"] for k in mistakes} == pytest.approx(mistakes)


def test_the_picture_has_the_pixels_of_the_file_and_the_color_of_the_loss():
    images, pixels = make_images(1, (600, 800))
    rois = Instances(
        (600, 800),
        proposal_boxes=Boxes([[100.0 * i, 100, 100.0 * i + 60, 300] for i in range(1, 4)]),
        gt_classes=torch.tensor([0, NUM_CLASSES, 1]),
        loss_cls=torch.tensor([4.0, 1.0, 0.0]),
        loss_box_reg=torch.zeros(3),
        pred_classes=torch.zeros(3, dtype=torch.int64),
    )
    targets = Instances((600, 800), gt_boxes=Boxes([[500.0, 100, 700, 300]]))
    drawn = []

    def draw(images, objects, rois, num_classes):
        drawn.extend([*images, *objects, *rois])
        return draw_hard_rois(images, objects, rois, num_classes)

    monitor = MiningMonitor(period=1, pixel_mean=MEAN, pixel_std=STD)
    with EventStorage() as storage, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ohem_d2.visualization.hard_rois.draw_hard_rois", draw)
        monitor.show(images, [targets], [rois], [rois], NUM_CLASSES)
    ((name, picture, _),) = storage._vis_data
    assert name == "ohem/hard_rois" and picture.dtype == np.uint8 and picture.shape[0] == 3
    image, objects, kept = drawn
    assert np.array_equal(image, pixels[0].flip(0).permute(1, 2, 0).byte().numpy())  # RGB
    assert torch.equal(objects.tensor, targets.gt_boxes.tensor)
    assert torch.equal(kept.loss_cls, rois.loss_cls)


def test_classes_without_a_name_are_numbered():
    monitor = MiningMonitor(period=1, class_names=["a", "b"])
    rois = [make_rois([NUM_CLASSES] * 2, [1.0, 2.0], [2, 0])]
    with EventStorage() as storage:
        monitor.show(make_images(1)[0], make_targets([1]), rois, rois, NUM_CLASSES)
    shares = [storage.latest()[f"ohem/mistaken_for/{i}"][0] for i in range(NUM_CLASSES)]
    assert shares == [0.5, 0, 0.5]


def log_background(loss_cls):
    """
    The scalars of background RoIs with these classification losses, and a foreground RoI.
    """
    classes = [0] + [NUM_CLASSES] * len(loss_cls)
    rois = make_rois(classes, [100.0, *loss_cls], [0] * len(classes))
    rois.survives_nms = torch.ones(len(rois), dtype=torch.bool)
    # Of two images, of which one has no background.
    log_mining([rois[:1], rois], [rois[:1], rois], [rois[:0]] * 2, [rois[:0]] * 2, NUM_CLASSES)
    return {k: v for k, (v, _) in get_event_storage().latest().items()}


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6])
def test_variation_of_the_background_losses(scale):
    # Mean 5, deviations -3, -1, 4: variance (9 + 1 + 16) / 2 = 13.
    with EventStorage():
        scalars = log_background([2 * scale, 4 * scale, 9 * scale])
    assert scalars["ohem/bg_loss_cv"] == pytest.approx(13**0.5 / 5)


@pytest.mark.parametrize("mean", [1e-6, 0.1, 1e4])
def test_small_variation_of_many_losses(mean):
    losses = mean * (1 + 1e-4 * np.random.RandomState(0).randn(10000)).astype(np.float32)
    with EventStorage():
        assert log_background(np.full(10000, mean).tolist())["ohem/bg_loss_cv"] < 1e-6
        expected = losses.std(dtype=np.float64) / losses.mean(dtype=np.float64)
        scalars = log_background(losses.tolist())
        assert scalars["ohem/bg_loss_cv"] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    "losses", [[], [1.0], [0.0] * 3, [1.0, math.inf], [1.0, math.nan], [math.inf] * 3]
)
def test_no_variation_is_logged_where_there_is_none(losses):
    with EventStorage():
        scalars = log_background(losses)
    assert "ohem/num_kept" in scalars and "ohem/bg_loss_cv" not in scalars


@pytest.fixture
def warnings(caplog, monkeypatch):
    """
    A function that returns the warnings so far. All are still to be logged for the first time.
    """
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    name = "ohem_d2.modeling.roi_heads.mining_events"
    return lambda: [x.getMessage() for x in caplog.records if x.name == name]


def log_share_of_foreground(share):
    classes = [0 if i < 20 * share else NUM_CLASSES for i in range(20)]
    rois = make_rois(classes, [2.0**i for i in range(20)], [0] * 20)
    rois.survives_nms = torch.ones(20, dtype=torch.bool)
    log_mining([rois], [rois], [rois[:0]], [rois], NUM_CLASSES)


def log_background_without_variation(share):
    # A dead head, which lets a little through: its losses vary by .071. And a confident one, whose
    # losses are tiny, but vary by .28.
    log_background([0.95, 1.05] if share == 1 else [1e-6, 1.5e-6])


@pytest.mark.parametrize("scope", [None, "stage1"])
@pytest.mark.parametrize(
    "log, says",
    [
        (
            log_share_of_foreground,
            ["MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA to 1.0", "MODEL.OHEM.FOREGROUND to 'sampled'"],
        ),
        (
            log_background_without_variation,
            ["is dead", "SOLVER.BASE_LR", "MODEL.OHEM.WARMUP_ITERS", "SOLVER.CLIP_GRADIENTS"],
        ),
    ],
)
@pytest.mark.parametrize(
    "shares, warns",
    [
        pytest.param([1.0] * 99, False, id="99 iterations"),
        pytest.param([1.0] * 100, True, id="100 iterations"),
        pytest.param(([0.5] + [1.0] * 9) * 20, True, id="nine of ten"),
        pytest.param(([0.5] + [1.0] * 8) * 20, False, id="eight of nine"),
        pytest.param([0.5] * 20 + [1.0] * 110, True, id="later"),
        pytest.param([0.9] * 200, False, id="never"),
    ],
)
def test_one_warning_if_it_lasts(shares, warns, log, says, scope, warnings):
    with EventStorage() as storage:
        for share in shares:
            if scope is None:
                log(share)
            else:
                log(0.5)  # The first stage, in which all is well.
                with storage.name_scope(scope):
                    log(share)
            storage.step()
    if not warns:
        assert warnings() == []
        return
    (message,) = warnings()
    assert all(x in message for x in says)
    assert ("stage1/ohem/" in message) == (scope == "stage1")


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["StandardROIHeads", "CascadeROIHeads"])
@pytest.mark.parametrize("dead", [True, False])
def test_a_dead_head_is_named(dead, family, precision, warnings):
    heads = build_heads(heads_config(**FAMILIES[family], MODEL__OHEM__MINING_BATCH_SIZE=25))
    *_, last = box_heads = heads.box_head if family == "CascadeROIHeads" else [heads.box_head]
    if dead:
        torch.nn.init.constant_(last.fc1.bias, -1e4)
    optimizer = torch.optim.SGD(heads.parameters(), lr=1e-2)
    targets = make_targets([3, 2])
    features, proposals = make_features(2), make_proposals(targets, [30, 30])
    with EventStorage() as storage:
        for _ in range(100):
            assert not any("is dead" in x for x in warnings())
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                _, losses = heads(None, features, proposals, targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            storage.step()
    scope = f"stage{len(box_heads) - 1}/" if len(box_heads) > 1 else ""
    named = [x for x in warnings() if "is dead" in x]
    assert len(named) == dead
    assert all(f"({scope}ohem/bg_loss_cv)" in x for x in named)


def test_nothing_to_show():
    heads = build_heads(heads_config(**PERIOD))
    targets = make_targets([0])
    with EventStorage() as storage:
        proposals = make_proposals(targets, [0])
        heads(make_images(1)[0], make_features(1), proposals, targets)
    assert len(storage._vis_data) == 1
    assert not any("_p50" in x or "mistaken" in x for x in storage.latest())


def test_warm_up_shows_nothing():
    heads = build_heads(heads_config(**PERIOD, MODEL__OHEM__WARMUP_ITERS=3))
    assert train_step(heads, 0)[3] == []
    assert len(train_step(heads, 5)[3]) == 1
