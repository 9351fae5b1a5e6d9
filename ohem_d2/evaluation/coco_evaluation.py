"""
COCO's AP of detections in a file, as pycocotools computes it.
"""

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..utils import InputError
from .detection_files import TASKS, check_image_ids, read_coco_results

__all__ = ["evaluate_coco_results"]

# COCOEvaluator's names of the first of COCOeval's `stats`.
BOX_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
METRICS = {
    "bbox": BOX_METRICS,
    "segm": BOX_METRICS,
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


def evaluate_coco_results(
    dataset_name: str, path: str | os.PathLike, kpt_oks_sigmas: Sequence[float] = ()
) -> dict[str, dict[str, float]]:
    """
    Evaluate the boxes, masks and keypoints in a json file, without rounding them.

    Args:
        dataset_name (str): a registered dataset.
        path (str): a json file of COCO's results on it, see :mod:`detection_files`.
        kpt_oks_sigmas (Sequence[float]): see :class:`COCOEvaluator`. Empty: those of COCO's 17
            keypoints.

    Returns:
        dict[str, dict[str, float]]: the same as :meth:`COCOEvaluator.evaluate` returns: by task
        ("bbox", "segm", "keypoints") and metric, in percent, with the AP of each class if there are
        several.

    Raises:
        InputError: if these are not detections on this dataset.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco = _load_coco(dataset_name)
    results = read_coco_results(path, coco.getCatIds())
    check_image_ids((x["image_id"] for x in results), coco.imgs, str(path))
    tasks = [task for task, key in TASKS.items() if results and key in results[0]]
    for task in tasks:
        if any(TASKS[task] not in x for x in coco.dataset["annotations"]):
            raise InputError(f"{path} has {TASKS[task]}, but {dataset_name} has none to compare.")
    if "segm" in tasks:
        _check_masks(coco, results, path)
    if not results:
        return {"bbox": dict.fromkeys(METRICS["bbox"], math.nan)}
    return {task: _evaluate(coco, results, task, kpt_oks_sigmas) for task in tasks}


def _load_coco(dataset_name: str) -> COCO:
    DatasetCatalog.get(dataset_name)  # may set the metadata
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file:
        coco = COCO(PathManager.get_local_path(json_file))
    else:
        with tempfile.TemporaryDirectory() as folder:
            json_file = os.path.join(folder, "dataset.json")
            convert_to_coco_json(dataset_name, json_file)
            coco = COCO(json_file)
    if "annotations" not in coco.dataset:
        raise InputError(f"{dataset_name} has no annotations to compare with.")
    return coco


def _check_masks(coco: COCO, results: list[dict[str, Any]], path: str | os.PathLike) -> None:
    for i, result in enumerate(results):
        image, rle = coco.imgs[result["image_id"]], result["segmentation"]
        if rle["size"] != [image["height"], image["width"]]:
            raise InputError(
                f"{path}: detection {i}, counted from 0, has a mask of height and width "
                f"{rle['size']}. Its image {image['id']} has {[image['height'], image['width']]}."
            )
        try:
            mask_util.decode(rle)
        except ValueError as e:
            raise InputError(f"{path}: the mask of detection {i}, counted from 0: {e}") from e


def _evaluate(
    coco: COCO, results: list[dict[str, Any]], task: str, kpt_oks_sigmas: Sequence[float]
) -> dict[str, float]:
    # Copies, because pycocotools adds to them. As in COCOEvaluator, masks are small, medium or
    # large by their own area: pycocotools would take that of the box.
    hidden = "bbox" if task == "segm" else None
    detections = coco.loadRes([{k: v for k, v in x.items() if k != hidden} for x in results])
    coco_eval = COCOeval(coco, detections, task)
    if task == "keypoints":
        if kpt_oks_sigmas:
            coco_eval.params.kpt_oks_sigmas = np.array(kpt_oks_sigmas)
        counts = [len(x[0]["keypoints"]) // 3 for x in (results, coco.dataset["annotations"])]
        if counts != [len(coco_eval.params.kpt_oks_sigmas)] * 2:
            raise InputError(
                f"The detections have {counts[0]} keypoints, the objects {counts[1]}. "
                f"Both must have {len(coco_eval.params.kpt_oks_sigmas)}, as many as there are "
                "sigmas (kpt_oks_sigmas)."
            )
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    metrics = {
        name: float(100 * x) if x >= 0 else math.nan
        for name, x in zip(METRICS[task], coco_eval.stats, strict=False)
    }
    categories = coco.loadCats(coco_eval.params.catIds)
    if len(categories) > 1:
        # For all areas, and the largest number of detections.
        precisions = coco_eval.eval["precision"][:, :, :, 0, -1]
        for i, category in enumerate(categories):
            precision = precisions[:, :, i]
            precision = precision[precision > -1]  # -1 where the class has no objects
            ap = float(100 * precision.mean()) if precision.size else math.nan
            metrics[f"AP-{category['name']}"] = ap
    return metrics
