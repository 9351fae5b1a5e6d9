"""
Backbones made of the convolutional features of torchvision's image classifiers.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Optional

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ...utils import did_you_mean

__all__ = [
    "IMAGE_SIZE",
    "TorchvisionBackbone",
    "build_torchvision_backbone",
    "find_stages",
    "torchvision_features",
]

IMAGE_SIZE = 224  # strides are measured on an image of this size, as classifiers expect


class TorchvisionBackbone(Backbone):
    """
    A backbone made of an `nn.Sequential`, such as the `features` of torchvision's VGG, SqueezeNet,
    AlexNet, MobileNet, DenseNet or EfficientNet. Its weights keep torchvision's names
    ("features.0.weight").

    Consecutive layers with the same output stride form a stage. Stages are named "stage1",
    "stage2", ...: for VGG they are conv1 to conv5. Layers without parameters that change the
    stride, such as pooling, belong to the stage they feed. The last pooling feeds none and is
    dropped, so VGG ends at stride 16.

    Batch norms stay as they are, except in frozen stages.
    """

    def __init__(
        self,
        features: nn.Sequential,
        out_features: Optional[Sequence[str]] = None,
        freeze_at: int = 0,
        in_channels: int = 3,
    ):
        """
        Args:
            features (nn.Sequential): layers or blocks, each from (N, C, H, W) to (N, C', H', W').
                They are not copied.
            out_features (list[str]): names of the stages to return. None or empty: the last.
                Later stages are dropped, so that no parameter is unused.
            freeze_at (int): number of stages to freeze, see :meth:`freeze`.
            in_channels (int): channels of an image.

        Raises:
            ValueError: if `features` are not such layers, or `out_features` or `freeze_at` names
                a stage that does not exist.
        """
        super().__init__()
        ends, shapes = find_stages(features, in_channels)
        out_features = out_features or list(ends)[-1:]
        for name in out_features:
            if name not in ends:
                raise ValueError(
                    f"MODEL.TORCHVISION.OUT_FEATURES has {name}. The stages of this backbone are "
                    f"{', '.join(ends)}."
                )
        last_end = max(ends[name] for name in out_features)

        self._stage_ends = [end for end in ends.values() if end <= last_end]
        self._outputs = {end: name for name, end in ends.items() if name in out_features}
        self._out_features = list(self._outputs.values())
        self._out_feature_channels = {name: x.channels for name, x in shapes.items()}
        self._out_feature_strides = {name: x.stride for name, x in shapes.items()}
        self.features = features[:last_end]
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x (Tensor): images of shape (N, C, H, W).

        Returns:
            dict[str, Tensor]: features by name of the stage, for `out_features`.
        """
        # Pooling without padding leaves nothing of an image smaller than the stride. Pad it with
        # zeros, as detectron2 pads images.
        size = 2 * self._out_feature_strides[self._out_features[-1]]
        height, width = x.shape[-2:]
        x = F.pad(x, (0, max(size - width, 0), 0, max(size - height, 0)))
        outputs = {}
        for i, layer in enumerate(self.features, start=1):
            x = layer(x)
            if i in self._outputs:
                outputs[self._outputs[i]] = x
        return outputs

    def freeze(self, freeze_at: int = 0) -> "TorchvisionBackbone":
        """
        Freeze the first stages, as :meth:`ResNet.freeze` does: their parameters get no gradients,
        and their batch norms become :class:`FrozenBatchNorm2d`.

        Args:
            freeze_at (int): number of stages to freeze.

        Returns:
            TorchvisionBackbone: itself.
        """
        num_stages = len(self._stage_ends)
        if not 0 <= freeze_at <= num_stages:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}. It must be from 0 to {num_stages}, the "
                "number of stages of this backbone."
            )
        for i in range(([0, *self._stage_ends])[freeze_at]):
            for p in self.features[i].parameters():
                p.requires_grad = False
            self.features[i] = FrozenBatchNorm2d.convert_frozen_batchnorm(self.features[i])
        return self


@torch.no_grad()
def find_stages(
    features: nn.Sequential, in_channels: int = 3
) -> tuple[dict[str, int], dict[str, ShapeSpec]]:
    """
    Divide layers into the stages of :class:`TorchvisionBackbone`.

    Returns:
        dict[str, int]: by the name of a stage, the index after its last layer.
        dict[str, ShapeSpec]: by the name of a stage, channels and stride of its output, and height
        and width for an image of IMAGE_SIZE.

    Raises:
        ValueError: if the layers do not make a backbone.
    """
    shapes = []
    with inference_context(features):
        x = torch.zeros(1, in_channels, IMAGE_SIZE, IMAGE_SIZE)
        for name, layer in features.named_children():
            x = layer(x)
            # A square image has square features, unless channels come last as in Swin.
            if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[2] != x.shape[3]:
                raise ValueError(
                    "A backbone needs layers that return a tensor of shape (N, C, H, W). "
                    f"Layer {name} ({type(layer).__name__}) does not."
                )
            channels, height, width = x.shape[1:]
            # Without padding, features are a bit smaller than the image divided by the stride.
            stride = 2 ** round(math.log2(IMAGE_SIZE / width))
            shapes.append(ShapeSpec(channels, height, width, stride))

    ends: dict[str, int] = {}
    for _, run in groupby(range(len(shapes)), key=lambda i: shapes[i].stride):
        layers = list(run)
        if any(True for i in layers for _ in features[i].parameters()):
            ends[f"stage{len(ends) + 1}"] = layers[-1] + 1
    if not ends:
        raise ValueError("A backbone needs layers with parameters. These have none.")
    return ends, {name: shapes[end - 1] for name, end in ends.items()}


def torchvision_features(cfg: CfgNode) -> nn.Sequential:
    """
    Create the randomly initialized convolutional features of one of torchvision's image classifiers
    from config.

    Raises:
        ValueError: if torchvision has no such model, it has no `features`, or
            MODEL.TORCHVISION.NORM is unknown.
    """
    name, norm = cfg.MODEL.TORCHVISION.NAME, cfg.MODEL.TORCHVISION.NORM
    if norm not in ("FrozenBN", "BN"):
        raise ValueError(f"MODEL.TORCHVISION.NORM is {norm!r}. It must be FrozenBN or BN.")
    # Excludes detectors, which would download the weights of their backbones.
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if name not in classifiers:
        raise ValueError(
            f"MODEL.TORCHVISION.NAME is {name!r}, which is not an image classifier of torchvision."
            + did_you_mean(name, classifiers)
        )
    features = getattr(torchvision.models.get_model(name, weights=None), "features", None)
    if not isinstance(features, nn.Sequential):
        raise ValueError(
            f"MODEL.TORCHVISION.NAME is {name}, which has no `features` to make a backbone of. "
            "For ResNets, set MODEL.BACKBONE.NAME to detectron2's build_resnet_backbone."
        )
    return FrozenBatchNorm2d.convert_frozen_batchnorm(features) if norm == "FrozenBN" else features


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionBackbone:
    """
    Create a randomly initialized backbone of one of torchvision's image classifiers from config.

    Raises:
        ValueError: see :func:`torchvision_features` and :class:`TorchvisionBackbone`.
    """
    return TorchvisionBackbone(
        torchvision_features(cfg),
        out_features=cfg.MODEL.TORCHVISION.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
    )
