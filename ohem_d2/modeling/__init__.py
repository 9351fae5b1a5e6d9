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
from .use_ohem import use_ohem

__all__ = [
    "HeuristicROIHeads",
    "LossLayerOHEMROIHeads",
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
    "TorchvisionBackbone",
    "VGGBoxHead",
    "use_ohem",
]
