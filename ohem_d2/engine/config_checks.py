"""
Values of a config that make no sense. detectron2 takes them, and fails later without naming the
key, or trains something else than was meant.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from PIL import Image

from ..utils import InputError

__all__ = ["check_config"]


class Rule(NamedTuple):
    """
    What a value, or each value of a sequence, must be.
    """

    words: str
    holds: Callable[[Any], bool]


def _at_least(low: float) -> Rule:
    return Rule(f"at least {low}", lambda x: low <= x < math.inf)


POSITIVE = Rule("positive", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = _at_least(0)
AT_LEAST_1 = _at_least(1)
SHARE = Rule("from 0 to 1", lambda x: 0 <= x <= 1)
NOT_EMPTY = Rule("not empty", lambda x: x != "")
# As detectron2 reads images.
FORMATS = ("BGR", "YUV-BT.601", *Image.MODES)
FORMAT = Rule(f"one of {', '.join(FORMATS)}", lambda x: x in FORMATS)


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


RULES: dict[str, Rule] = {
    "DATALOADER.NUM_WORKERS": NOT_NEGATIVE,
    "INPUT.FORMAT": FORMAT,
    "INPUT.MAX_SIZE_TEST": AT_LEAST_1,
    "INPUT.MAX_SIZE_TRAIN": AT_LEAST_1,
    "INPUT.MIN_SIZE_TEST": NOT_NEGATIVE,  # 0: images keep their size
    "INPUT.MIN_SIZE_TRAIN": AT_LEAST_1,
    "MODEL.DEVICE": Rule("a device of PyTorch, such as cpu, cuda or cuda:1", _is_device),
    "MODEL.FPN.OUT_CHANNELS": AT_LEAST_1,
    "MODEL.PIXEL_STD": POSITIVE,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": AT_LEAST_1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": AT_LEAST_1,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": AT_LEAST_1,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": NOT_NEGATIVE,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": AT_LEAST_1,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NUM_CLASSES": AT_LEAST_1,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": AT_LEAST_1,
    "MODEL.RPN.IOU_THRESHOLDS": SHARE,
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE,
    "MODEL.RPN.POST_NMS_TOPK_TEST": AT_LEAST_1,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": AT_LEAST_1,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": AT_LEAST_1,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": AT_LEAST_1,
    "OUTPUT_DIR": NOT_EMPTY,
    "SOLVER.ACCUMULATION_PASSES": AT_LEAST_1,
    "SOLVER.BASE_LR": NOT_NEGATIVE,
    "SOLVER.CHECKPOINT_PERIOD": AT_LEAST_1,
    "SOLVER.GAMMA": NOT_NEGATIVE,
    "SOLVER.IMS_PER_BATCH": AT_LEAST_1,
    "SOLVER.MAX_ITER": AT_LEAST_1,
    "SOLVER.MOMENTUM": SHARE,
    "SOLVER.WARMUP_ITERS": NOT_NEGATIVE,
    "TEST.DETECTIONS_PER_IMAGE": Rule("at least 0, or -1 for all", lambda x: x >= -1),
    "TEST.EVAL_PERIOD": NOT_NEGATIVE,
    "VIS_PERIOD": NOT_NEGATIVE,
}


def check_config(cfg: CfgNode) -> None:
    """
    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.

    Raises:
        InputError: for the first value that makes no sense.
    """
    for key, rule in RULES.items():
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        is_sequence = isinstance(value, (list, tuple))
        if is_sequence and not value:
            raise InputError(f"{key} is empty. It needs a value.")
        if not all(map(rule.holds, value if is_sequence else [value])):
            verb = "must all be" if is_sequence else "must be"
            raise InputError(f"{key} is {value!r}: it {verb} {rule.words}.")
    passes, images = cfg.SOLVER.ACCUMULATION_PASSES, cfg.SOLVER.IMS_PER_BATCH
    if passes > images:
        raise InputError(
            f"SOLVER.ACCUMULATION_PASSES is {passes}, more than the {images} images of a step "
            "(SOLVER.IMS_PER_BATCH)."
        )
    ratios, labels = cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS, cfg.MODEL.ROI_HEADS.IOU_LABELS
    if list(ratios) != sorted(ratios):
        raise InputError(f"MODEL.ROI_HEADS.IOU_THRESHOLDS is {ratios}: it must increase.")
    if len(labels) != len(ratios) + 1:
        raise InputError(
            f"MODEL.ROI_HEADS.IOU_LABELS is {labels}: it must have one label more than "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS, which is {ratios}."
        )
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if len(mean) != len(std):
        raise InputError(
            f"MODEL.PIXEL_MEAN has {len(mean)} values, but MODEL.PIXEL_STD {len(std)}."
        )
