from .roi_heads import OHEMROIHeads

__all__ = ["OHEMROIHeads"]
