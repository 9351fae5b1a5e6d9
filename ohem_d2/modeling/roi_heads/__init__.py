from .box_head import VGGBoxHead
from .hard_roi_selection import nms_by_loss, take_hardest
from .heuristic import HeuristicROIHeads
from .ignore_regions import IgnoreRegionsMixin, remove_ignored_proposals
from .mining_events import MiningMonitor
from .ohem import OHEMCascadeROIHeads, OHEMMixin, OHEMRes5ROIHeads, OHEMROIHeads
from .read_only_pass import read_only_roi_losses
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
    "label_rois",
    "nms_by_loss",
    "read_only_roi_losses",
    "remove_ignored_proposals",
    "roi_losses",
    "take_hardest",
]
