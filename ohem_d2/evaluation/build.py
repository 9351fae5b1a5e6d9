from collections.abc import Sequence
from typing import Optional

from detectron2 import _C
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from ..data.datasets.voc import is_voc
from ..utils import InputError
from .pascal_voc_evaluation import PascalVOCEvaluator

__all__ = ["build_evaluator", "evaluator_type"]


def evaluator_type(dataset_name: str) -> str:
    """
    Returns:
        str: "coco" or "pascal_voc": what the metadata of the dataset names, or else by its layout.

    Raises:
        InputError: if the metadata names another one.
    """
    # detectron2's register_pascal_voc() names none.
    by_layout = "pascal_voc" if is_voc(dataset_name) else "coco"
    name = MetadataCatalog.get(dataset_name).get("evaluator_type", by_layout)
    if name not in ("coco", "pascal_voc"):
        raise InputError(
            f"{dataset_name} is evaluated by '{name}'. Only 'coco' and 'pascal_voc' are supported."
        )
    return name


def build_evaluator(
    dataset_name: str, output_dir: Optional[str] = None, kpt_oks_sigmas: Sequence[float] = ()
) -> DatasetEvaluator:
    """
    Args:
        dataset_name (str): a registered dataset.
        output_dir (str): where the evaluator writes detections and results. None writes nothing,
            and requires a dataset from a json file in COCO's format or one in PASCAL VOC's layout.
        kpt_oks_sigmas (Sequence[float]): see :class:`COCOEvaluator`.

    Returns:
        DatasetEvaluator: a :class:`PascalVOCEvaluator` or a :class:`COCOEvaluator`.

    Raises:
        InputError: see :func:`evaluator_type`.
    """
    if evaluator_type(dataset_name) == "pascal_voc":
        return PascalVOCEvaluator(dataset_name, output_dir)
    metadata = MetadataCatalog.get(dataset_name)
    has_json_file = metadata.get("json_file") is not None
    evaluator = COCOEvaluator(
        dataset_name,
        output_dir=output_dir,
        # detectron2 without its compiled extension has pycocotools' implementation only.
        use_fast_impl=hasattr(_C, "COCOevalEvaluateImages"),
        kpt_oks_sigmas=kpt_oks_sigmas,
    )
    if not has_json_file:
        # The evaluator has converted the dataset to json in its folder, and has told the metadata.
        # The folder may be moved: the next evaluator converts for itself.
        del metadata.json_file
    return evaluator
