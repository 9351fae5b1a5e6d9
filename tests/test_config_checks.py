"""
Values that make no sense are named before anything is built.
"""

import pytest
from conftest import CONFIGS

from ohem_d2.engine import load_config
from ohem_d2.engine.config_checks import RULES, check_config
from ohem_d2.utils import InputError


def make_config(*options):
    return load_config(str(CONFIGS / "demo/faster_rcnn_R_18_ohem.yaml"), options)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("DATALOADER.NUM_WORKERS", -1, "is -1: it must be at least 0"),
        ("INPUT.FORMAT", "XYZ", "is 'XYZ': it must be one of BGR, YUV-BT.601, "),
        ("INPUT.MIN_SIZE_TRAIN", (0,), r"is \(0,\): it must all be at least 1"),
        ("INPUT.MIN_SIZE_TRAIN", (), "is empty. It needs a value"),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], r"is \[1.0, 0.0, 1.0\]: it must all be positive"),
        ("MODEL.PIXEL_STD", [float("nan")], "positive"),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 0, "is 0: it must be at least 1"),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [2.0], "it must all be from 0 to 1"),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.5, 0.3], "it must increase"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 7.0, "is 7.0: it must be from 0 to 1"),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", 3.0, "is 3.0: it must be from 0 to 1"),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", -0.5, "is -0.5"),
        ("OUTPUT_DIR", "", "is '': it must be not empty"),
        ("SOLVER.ACCUMULATION_PASSES", 0, "is 0: it must be at least 1"),
        ("SOLVER.ACCUMULATION_PASSES", -1, "is -1"),
        ("SOLVER.ACCUMULATION_PASSES", 9, r"is 9, more than the 2 images .*IMS_PER_BATCH"),
        ("SOLVER.BASE_LR", float("inf"), "is inf"),
        ("SOLVER.MAX_ITER", 0, "is 0: it must be at least 1"),
        ("SOLVER.MAX_ITER", -3, "is -3"),
    ],
)
def test_values_that_make_no_sense(key, value, message):
    cfg = make_config("SOLVER.IMS_PER_BATCH", 2)
    check_config(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(InputError, match=f"^{key} .*{message}|^{key} {message}"):
        check_config(cfg)


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("[!B]*.yaml")), ids=lambda x: x.stem)
def test_configs_make_sense(file):
    check_config(load_config(str(file)))


def test_detectron2s_config_makes_sense():
    check_config(load_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"))
    assert len(RULES) > 30
