from .backbone import TorchvisionBackbone
from .roi_heads import (
    HeuristicROIHeads,
    LossLayerOHEMROIHeads,
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
    VGGBoxHead,
)
from .test_time_augmentation import GeneralizedRCNNWithTTA, build_test_time_model
from .use_ohem import use_ohem

__all__ = [
    "GeneralizedRCNNWithTTA",
    "HeuristicROIHeads",
    "LossLayerOHEMROIHeads",
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
    "TorchvisionBackbone",
    "VGGBoxHead",
    "build_test_time_model",
    "use_ohem",
]
