import logging

import pytest
from conftest import build_heads, heads_config, make_inputs, train_step

from ohem_d2.modeling.roi_heads.describe_sampling import describe_sampling


def describe(**options):
    return describe_sampling(build_heads(heads_config(**options)))


def test_random_sampling():
    assert describe(MODEL__ROI_HEADS__NAME="StandardROIHeads") == (
        "StandardROIHeads: 16 random RoIs of each image, at most 25% foreground."
    )
    heuristic = {"MODEL__ROI_HEADS__NAME": "HeuristicROIHeads", "MODEL__ROI_HEADS__BG_LO": 0.1}
    assert describe(**heuristic) == (
        "HeuristicROIHeads: 16 random RoIs of each image, at most 25% foreground, background with "
        "an IoU of at least 0.1."
    )


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "the 16 RoIs of each image with the largest loss, after NMS at 0.7."),
        (
            {"POSITIVE_FRACTION": 0.25, "NMS_PER_CLASS": True},
            "largest loss, at most 25% foreground, after NMS at 0.7 per class.",
        ),
        (
            {"FOREGROUND": "sampled"},
            "of 16 RoIs of each image, at most 25% are random foreground, and the others are the "
            "background with the largest loss, after NMS at 0.7.",
        ),
        ({"POOL_SIZE": 64}, "with the largest loss among 64 RoIs, after NMS"),
        ({"WARMUP_ITERS": 60}, "NMS at 0.7; before, random RoIs for 60 iterations."),
    ],
)
def test_mining(options, expected):
    text = describe(**{f"MODEL__OHEM__{k}": x for k, x in options.items()})
    assert text.startswith("OHEMROIHeads (online hard example mining): ") and expected in text


def test_it_is_logged_once_and_by_training_alone(caplog):
    caplog.set_level(logging.INFO, "detectron2")
    heads = build_heads(heads_config())
    features, proposals, targets = make_inputs()
    heads.eval()(None, features, proposals)
    assert not caplog.records
    heads.train()
    for _ in range(2):
        train_step(heads, features, proposals, targets)
    (record,) = caplog.records
    assert record.message == f"RoI sampling in training: {describe_sampling(heads)}"
    assert record.name.startswith("detectron2.")  # whose handlers every trainer sets up
