from .build import build_evaluator
from .detection_files import evaluate_detections
from .mean_roi_loss import build_mean_roi_loss_loader, features_and_rois, mean_roi_loss
from .pascal_voc_evaluation import PascalVOCEvaluator

__all__ = [
    "PascalVOCEvaluator",
    "build_evaluator",
    "build_mean_roi_loss_loader",
    "evaluate_detections",
    "features_and_rois",
    "mean_roi_loss",
]
