from .torchvision_backbone import TorchvisionBackbone, build_torchvision_backbone
from .torchvision_fpn import build_torchvision_fpn_backbone
from .vgg_m import build_vgg_cnn_m_1024_backbone, vgg_cnn_m_features

__all__ = [
    "TorchvisionBackbone",
    "build_torchvision_backbone",
    "build_torchvision_fpn_backbone",
    "build_vgg_cnn_m_1024_backbone",
    "vgg_cnn_m_features",
]
