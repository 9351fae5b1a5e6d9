from .backbone import TorchvisionBackbone
from .detection_merger import DetectionMerger
from .roi_heads import (
    HeuristicROIHeads,
    IterativeROIHeads,
    LossLayerOHEMROIHeads,
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
    VGGBoxHead,
)
from .test_time_augmentation import GeneralizedRCNNWithTTA, ImageTooLargeError
from .test_time_model import build_test_time_model
from .use_ohem import use_ohem

__all__ = [
    "DetectionMerger",
    "GeneralizedRCNNWithTTA",
    "HeuristicROIHeads",
    "ImageTooLargeError",
    "IterativeROIHeads",
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
