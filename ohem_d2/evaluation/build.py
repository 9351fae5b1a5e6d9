from typing import Optional

from detectron2 import _C
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from .pascal_voc_evaluation import PascalVOCEvaluator

__all__ = ["build_evaluator"]


def build_evaluator(dataset_name: str, output_dir: Optional[str] = None) -> DatasetEvaluator:
    """
    Args:
        dataset_name (str): a registered dataset. Its `evaluator_type` in the metadata is
            "pascal_voc", or "coco", as it is if there is none.
        output_dir (str): where the evaluator writes detections and results. None: nowhere, which
            only datasets that come from a json file of COCO's or from PASCAL VOC's allow.

    Returns:
        DatasetEvaluator: a :class:`PascalVOCEvaluator` or a :class:`COCOEvaluator`.

    Raises:
        ValueError: if the dataset is evaluated in another way.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if evaluator_type == "pascal_voc":
        return PascalVOCEvaluator(dataset_name, output_dir)
    if evaluator_type != "coco":
        raise ValueError(
            f"{dataset_name} is evaluated by '{evaluator_type}'. Only 'coco' and 'pascal_voc' are "
            "supported."
        )
    return COCOEvaluator(
        dataset_name,
        output_dir=output_dir,
        # detectron2 without its compiled extension has pycocotools' implementation only.
        use_fast_impl=hasattr(_C, "COCOevalEvaluateImages"),
    )
