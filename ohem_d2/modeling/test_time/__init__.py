from .augmentation import GeneralizedRCNNWithTTA, ImageTooLargeError
from .build import build_test_time_model
from .detection_merger import DetectionMerger
from .iterative_box_regression import IterativeROIHeads

__all__ = [
    "DetectionMerger",
    "GeneralizedRCNNWithTTA",
    "ImageTooLargeError",
    "IterativeROIHeads",
    "build_test_time_model",
]
