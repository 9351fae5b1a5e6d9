"""
Feature pyramids on torchvision's image classifiers.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .torchvision_backbone import (
    IMAGE_SIZE,
    TorchvisionBackbone,
    find_stages,
    torchvision_features,
)

__all__ = ["build_torchvision_fpn_backbone"]


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    Create a randomly initialized FPN on one of torchvision's image classifiers from config.

    Returns:
        FPN: from images of shape (N, C, H, W), with H and W multiples of its `size_divisibility`,
        levels "p<i>" of shape (N, MODEL.FPN.OUT_CHANNELS, H / 2^i, W / 2^i): one for each stage
        in MODEL.FPN.IN_FEATURES (if empty: for each of stride 4 or more), and the last one
        subsampled. MODEL.TORCHVISION.OUT_FEATURES is not used.

    Raises:
        ValueError: if FPN does not fit the stages; see also :func:`torchvision_features` and
            :class:`TorchvisionBackbone`.
    """
    features = torchvision_features(cfg)
    _, stages = find_stages(features, input_shape.channels)
    in_features = cfg.MODEL.FPN.IN_FEATURES or [k for k, x in stages.items() if x.stride >= 4]
    _check_stages(cfg.MODEL.TORCHVISION.NAME, stages, in_features)

    top_block = LastLevelMaxPool()
    # detectron2 takes the last level to be p5. VGG's is p4.
    top_block.in_feature = f"p{int(math.log2(stages[in_features[-1]].stride))}"
    return FPN(
        bottom_up=TorchvisionBackbone(
            features,
            out_features=in_features,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            in_channels=input_shape.channels,
        ),
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _check_stages(
    classifier: str, stages: dict[str, ShapeSpec], in_features: Sequence[str]
) -> None:
    remedy = (
        f"The stages of {classifier} are "
        f"{', '.join(f'{name} (stride {x.stride})' for name, x in stages.items())}. "
        "[] takes all of stride 4 or more."
    )
    for name in in_features:
        if name not in stages:
            raise ValueError(f"MODEL.FPN.IN_FEATURES has {name}. {remedy}")
    strides = [stages[name].stride for name in in_features]
    if any(next_stride != 2 * stride for stride, next_stride in pairwise(strides)):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {in_features}, with strides {strides}. Each stride must be "
            f"twice the one before. {remedy}"
        )
    # FPN doubles the size of a level and adds it to the one before, if there is one.
    for name in in_features if len(in_features) > 1 else ():
        width, stride = stages[name].width, stages[name].stride
        if width * stride != IMAGE_SIZE:
            raise ValueError(
                f"MODEL.TORCHVISION.NAME is {classifier}, whose layers lack the padding that FPN "
                f"needs: {name}, of stride {stride}, makes {width} columns of {IMAGE_SIZE} instead "
                f"of {IMAGE_SIZE // stride}. Use a VGG, MobileNet, EfficientNet or DenseNet, or "
                "build_torchvision_backbone."
            )
