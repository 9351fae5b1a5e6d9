from .hard_roi_selection import nms_by_loss, take_hardest
from .ohem import OHEMROIHeads
from .read_only_forward import read_only_roi_losses
from .roi_labels import label_rois
from .roi_loss import check_minable, roi_losses

__all__ = [
    "OHEMROIHeads",
    "check_minable",
    "label_rois",
    "nms_by_loss",
    "read_only_roi_losses",
    "roi_losses",
    "take_hardest",
]
