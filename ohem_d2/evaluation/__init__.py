from .build import build_evaluator
from .coco_evaluation import evaluate_coco_results
from .hard_example_files import HardExampleList, write_coco_json, write_csv
from .hard_examples import HardExample, find_hard_examples
from .mean_roi_loss import build_mean_roi_loss_loader, features_and_rois, mean_roi_loss
from .pascal_voc_evaluation import PascalVOCEvaluator
from .testing import (
    Evaluation,
    TimedModel,
    describe_test,
    evaluate_dataset,
    evaluate_model,
    write_evaluations,
)

__all__ = [
    "Evaluation",
    "HardExample",
    "HardExampleList",
    "PascalVOCEvaluator",
    "TimedModel",
    "build_evaluator",
    "build_mean_roi_loss_loader",
    "describe_test",
    "evaluate_coco_results",
    "evaluate_dataset",
    "evaluate_model",
    "features_and_rois",
    "find_hard_examples",
    "mean_roi_loss",
    "write_coco_json",
    "write_csv",
    "write_evaluations",
]
