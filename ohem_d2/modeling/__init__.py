from .backbone import TorchvisionBackbone
from .roi_heads import (
    HeuristicROIHeads,
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
    VGGBoxHead,
)
from .test_time import (
    DetectionMerger,
    GeneralizedRCNNWithTTA,
    ImageTooLargeError,
    IterativeROIHeads,
    build_test_time_model,
)
from .use_ohem import use_ohem

__all__ = [
    "DetectionMerger",
    "GeneralizedRCNNWithTTA",
    "HeuristicROIHeads",
    "ImageTooLargeError",
    "IterativeROIHeads",
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
    "TorchvisionBackbone",
    "VGGBoxHead",
    "build_test_time_model",
    "use_ohem",
]
