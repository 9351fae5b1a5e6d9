"""
What a detector gets wrong when it finds a share of the objects: what its users see.
"""

from pathlib import Path
from typing import Any

from ohem_d2.evaluation.compared_dataset import read_compared_dataset
from ohem_d2.evaluation.error_breakdown import count_errors, rank_detections

__all__ = ["RECALLS", "errors_at_recalls"]

RECALLS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")


def errors_at_recalls(dataset: str, folder: Path) -> dict[str, Any]:
    """
    Args:
        dataset (str): in DatasetCatalog.
        folder (Path): of its detections.

    Returns:
        dict: by recall, at an IoU of .5, the wrong detections above the highest score that reaches
        it: their number by kind, see :mod:`ohem_d2.evaluation.error_breakdown`. None where no score
        does.
    """
    judgements = read_compared_dataset(dataset, [folder]).judge(0, "bbox")
    ranking = rank_detections(judgements)
    errors: dict[str, Any] = {}
    for recall in RECALLS:
        thresholds = ranking.thresholds[ranking.recall >= float(recall)]
        reached = len(thresholds) > 0
        errors[recall] = count_errors(judgements, float(thresholds[0])).wrong if reached else None
    return errors
