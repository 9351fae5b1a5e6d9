"""
The paper's test-time procedure (Shrivastava et al. 2016, section 6) for any trained model, by
config: multiple scales, iterative bounding-box regression and box voting.
"""

from detectron2.config import CfgNode
from torch import nn

from .augmentation import GeneralizedRCNNWithTTA
from .detection_merger import DetectionMerger
from .iterative_box_regression import with_iterative_roi_heads
from .options import check_test_time_options, uses_test_time_options

__all__ = ["build_test_time_model"]


def build_test_time_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """
    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        model (nn.Module): a trained model. It is not changed.

    Returns:
        nn.Module: a model for inference with the same interface and weights, that applies what
        TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING enable. `model` itself if none is enabled.

    Raises:
        InputError: see :func:`check_test_time_options`.
    """
    if not uses_test_time_options(cfg):
        return model
    check_test_time_options(cfg)
    if cfg.TEST.AUG.ENABLED:
        return GeneralizedRCNNWithTTA(cfg, model)
    return with_iterative_roi_heads(cfg, model, DetectionMerger(cfg))
