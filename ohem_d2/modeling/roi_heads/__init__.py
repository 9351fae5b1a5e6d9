from .box_head import VGGBoxHead
from .hard_roi_selection import nms_by_loss, take_hardest
from .heuristic import HeuristicROIHeads
from .ignore_regions import IgnoreRegionsMixin, remove_ignored_proposals
from .mining_events import MiningMonitor
from .ohem import OHEMMixin, OHEMRes5ROIHeads, OHEMROIHeads
from .ohem_cascade import OHEMCascadeROIHeads
from .read_only_pass import compute_roi_losses
from .roi_labels import label_rois
from .roi_loss import check_minable, roi_losses

__all__ = [
    "HeuristicROIHeads",
    "IgnoreRegionsMixin",
    "MiningMonitor",
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
    "VGGBoxHead",
    "check_minable",
    "compute_roi_losses",
    "label_rois",
    "nms_by_loss",
    "remove_ignored_proposals",
    "roi_losses",
    "take_hardest",
]
