"""
The keys TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING.
"""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import Res5ROIHeads, RROIHeads, StandardROIHeads

from ...utils import InputError
from .box_voting import SCORING_METHODS

__all__ = ["check_test_time_options", "uses_test_time_options", "with_test_time_options"]


def uses_test_time_options(cfg: CfgNode) -> bool:
    """
    Returns:
        bool: whether TEST.AUG, TEST.ITERATIVE_BBOX or TEST.BOX_VOTING is enabled.
    """
    test = cfg.TEST
    return test.AUG.ENABLED or test.ITERATIVE_BBOX.ENABLED or test.BOX_VOTING.ENABLED


def with_test_time_options(cfg: CfgNode, multi_scale: bool, regression_and_voting: bool) -> CfgNode:
    """
    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        multi_scale (bool): whether to enable TEST.AUG.
        regression_and_voting (bool): whether to enable TEST.ITERATIVE_BBOX and TEST.BOX_VOTING.

    Returns:
        CfgNode: a copy, not frozen.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.AUG.ENABLED = multi_scale
    cfg.TEST.ITERATIVE_BBOX.ENABLED = cfg.TEST.BOX_VOTING.ENABLED = regression_and_voting
    return cfg


def check_test_time_options(cfg: CfgNode) -> None:
    """
    Check, without the model, what can be checked without it. Options that are off are not checked.

    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.

    Raises:
        InputError: if a value is out of its range, or the model does not support an option.
    """
    if not uses_test_time_options(cfg):
        return
    _check_model(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), GeneralizedRCNN)
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    _check_model(heads, (StandardROIHeads, Res5ROIHeads))

    aug, regression, voting = cfg.TEST.AUG, cfg.TEST.ITERATIVE_BBOX, cfg.TEST.BOX_VOTING
    if aug.ENABLED:
        if not aug.MIN_SIZES or min(aug.MIN_SIZES) <= 0 or aug.MAX_SIZE <= 0:
            raise InputError(
                "TEST.AUG.MIN_SIZES must hold at least one size, and all sizes and "
                f"TEST.AUG.MAX_SIZE must be positive, not {aug.MIN_SIZES} and {aug.MAX_SIZE}."
            )
        if cfg.MODEL.KEYPOINT_ON:
            raise InputError(
                "detectron2 has no TEST.AUG for keypoints. MODEL.KEYPOINT_ON False leaves them out."
            )
    if regression.ENABLED:
        if regression.NUM_ROUNDS < 1:
            raise InputError(
                f"TEST.ITERATIVE_BBOX.NUM_ROUNDS must be at least 1, not {regression.NUM_ROUNDS}."
            )
        _check_fraction("TEST.ITERATIVE_BBOX.SCORE_THRESH", regression.SCORE_THRESH)
    if voting.ENABLED:
        if voting.NMS_THRESH is not None:
            _check_fraction("TEST.BOX_VOTING.NMS_THRESH", voting.NMS_THRESH)
        _check_fraction("TEST.BOX_VOTING.IOU_THRESH", voting.IOU_THRESH)
        if voting.SCORING_METHOD not in SCORING_METHODS:
            raise InputError(
                f"TEST.BOX_VOTING.SCORING_METHOD is {voting.SCORING_METHOD!r}. It must be one of: "
                f"{', '.join(SCORING_METHODS)}."
            )
        if not voting.SCORING_METHOD_BETA > 0:
            raise InputError(
                "TEST.BOX_VOTING.SCORING_METHOD_BETA must be positive, not "
                f"{voting.SCORING_METHOD_BETA}."
            )


def _check_model(cls: type, supported: type | tuple[type, ...]) -> None:
    # Rotated boxes have five coordinates.
    if not issubclass(cls, supported) or issubclass(cls, RROIHeads):
        raise InputError(
            "TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING require a GeneralizedRCNN with "
            f"StandardROIHeads, Res5ROIHeads or CascadeROIHeads, not {cls.__name__}."
        )


def _check_fraction(key: str, value: object) -> None:
    # The config does not check the type of a key that is None by default.
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"{key} must be from 0 to 1, not {value!r}.")
