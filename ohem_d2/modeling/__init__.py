from .roi_heads import (
    HeuristicROIHeads,
    LossLayerOHEMROIHeads,
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
)

__all__ = [
    "HeuristicROIHeads",
    "LossLayerOHEMROIHeads",
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
]
