"""
VGG_CNN_M_1024 (Chatfield et al. 2014, arXiv:1405.3531), which torchvision lacks.
"""

from collections import OrderedDict

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from .torchvision_backbone import TorchvisionBackbone

__all__ = ["build_vgg_cnn_m_1024_backbone", "vgg_cnn_m_features"]


class LocalResponseNorm(nn.LocalResponseNorm):
    """
    Computed in float32: the squares of conv1's output overflow float16.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def vgg_cnn_m_features(in_channels: int = 3) -> nn.Sequential:
    """
    The convolutional layers of VGG_CNN_M and its variants, with Caffe's names. RoI pooling replaces
    the last pooling. :class:`TorchvisionBackbone` divides them into the stages conv1 (stride 2),
    conv2 (8) and conv3 to conv5 (16).
    """
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 96, 7, stride=2),
            relu1=nn.ReLU(inplace=True),
            norm1=LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # as Caffe rounds
            conv2=nn.Conv2d(96, 256, 5, stride=2, padding=1),
            relu2=nn.ReLU(inplace=True),
            norm2=LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            conv3=nn.Conv2d(256, 512, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(512, 512, 3, padding=1),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(512, 512, 3, padding=1),
            relu5=nn.ReLU(inplace=True),
        )
    )
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            weight_init.c2_msra_fill(layer)
    return features


@BACKBONE_REGISTRY.register()
def build_vgg_cnn_m_1024_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionBackbone:
    """
    Create a randomly initialized VGG_CNN_M_1024 backbone from config. It returns "stage3".
    """
    return TorchvisionBackbone(
        vgg_cnn_m_features(input_shape.channels), freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
