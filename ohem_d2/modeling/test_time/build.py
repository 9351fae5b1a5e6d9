"""
What the paper does at test time (Shrivastava et al. 2016, section 6), by config, with any trained
model: multiple scales, iterative bounding-box regression and box voting.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import Res5ROIHeads, RROIHeads, StandardROIHeads
from torch import nn

from .augmentation import GeneralizedRCNNWithTTA
from .detection_merger import DetectionMerger
from .iterative_box_regression import (
    check_iterative_box_regression,
    with_iterative_roi_heads,
)

__all__ = [
    "build_test_time_model",
    "check_test_time_options",
    "uses_test_time_options",
    "with_test_time_options",
    "without_test_time_options",
]


def build_test_time_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """
    What a model is to be tested with, by TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING.

    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        model (nn.Module): a trained model. It is left as it is.

    Returns:
        nn.Module: has the interface and the weights of the model, and is to be used in inference.
        The model itself if none of the three is enabled.

    Raises:
        ValueError: see :func:`check_test_time_options`.
    """
    if not uses_test_time_options(cfg):
        return model
    check_test_time_options(cfg)
    if cfg.TEST.AUG.ENABLED:
        return GeneralizedRCNNWithTTA(cfg, model)
    return with_iterative_roi_heads(cfg, model, DetectionMerger(cfg))


def uses_test_time_options(cfg: CfgNode) -> bool:
    """
    Returns:
        bool: whether TEST.AUG, TEST.ITERATIVE_BBOX or TEST.BOX_VOTING is enabled.
    """
    test = cfg.TEST
    return test.AUG.ENABLED or test.ITERATIVE_BBOX.ENABLED or test.BOX_VOTING.ENABLED


def without_test_time_options(cfg: CfgNode) -> CfgNode:
    """
    Returns:
        CfgNode: a copy with TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING disabled.
    """
    return with_test_time_options(cfg, multi_scale=False, regression_and_voting=False)


def with_test_time_options(cfg: CfgNode, multi_scale: bool, regression_and_voting: bool) -> CfgNode:
    """
    Args:
        cfg (CfgNode): see :func:`build_test_time_model`.
        multi_scale, regression_and_voting (bool): the columns of the paper's ablation.

    Returns:
        CfgNode: a copy, not frozen, with TEST.AUG, and TEST.ITERATIVE_BBOX and TEST.BOX_VOTING,
        enabled or not.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.AUG.ENABLED = multi_scale
    cfg.TEST.ITERATIVE_BBOX.ENABLED = cfg.TEST.BOX_VOTING.ENABLED = regression_and_voting
    return cfg


def check_test_time_options(cfg: CfgNode) -> None:
    """
    Check what can be told without the model.

    Args:
        cfg (CfgNode): see :func:`build_test_time_model`.

    Raises:
        ValueError: if one of the options is enabled, and a value is out of its range, or the model
            that the config describes cannot have it.
    """
    if not uses_test_time_options(cfg):
        return
    _check_model(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), GeneralizedRCNN)
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    _check_model(heads, (StandardROIHeads, Res5ROIHeads))
    DetectionMerger(cfg)
    check_iterative_box_regression(
        cfg.TEST.ITERATIVE_BBOX.NUM_ROUNDS, cfg.TEST.ITERATIVE_BBOX.SCORE_THRESH
    )
    aug = cfg.TEST.AUG
    if aug.ENABLED and not (aug.MIN_SIZES and min(aug.MIN_SIZES) > 0 and aug.MAX_SIZE > 0):
        raise ValueError(
            "TEST.AUG.MIN_SIZES must have at least one size, and TEST.AUG.MAX_SIZE be one, of a "
            f"pixel or more, and they are {aug.MIN_SIZES} and {aug.MAX_SIZE}."
        )
    if aug.ENABLED and cfg.MODEL.KEYPOINT_ON:
        raise ValueError(
            "detectron2 has no TEST.AUG for keypoints. MODEL.KEYPOINT_ON False leaves them out."
        )


def _check_model(cls: type, supported: Any) -> None:
    # Rotated boxes have five coordinates.
    if not issubclass(cls, supported) or issubclass(cls, RROIHeads):
        raise ValueError(
            "TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING are for a GeneralizedRCNN with "
            f"StandardROIHeads, Res5ROIHeads or CascadeROIHeads, and not for {cls.__name__}."
        )
