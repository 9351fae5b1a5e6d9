"""
A dataset, and the detections of some runs on it, from the files of their evaluators.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import Params
from torch import Tensor

from ..data import handle_difficult_objects
from ..utils import InputError
from .build import evaluator_type
from .detection_files import (
    TASKS,
    check_image_ids,
    comp4_file,
    read_coco_results,
    read_comp4_file,
)
from .error_breakdown import Judgement, judge_detections
from .overlaps import keypoint_similarity, mask_iou

__all__ = ["COCO_RESULTS", "ComparedDataset", "ComparedImage", "read_compared_dataset"]

COCO_RESULTS = "coco_instances_results.json"


class Detection(NamedTuple):
    box: Sequence[float]  # XYXY
    score: float
    category: int  # in [0, K), as in `pred_classes`
    mask: Optional[dict[str, Any]] = None  # RLE
    keypoints: Optional[list[float]] = None  # x, y, score, x, y, score, ...


class ComparedImage(NamedTuple):
    """
    Masks are lists of COCO's compressed RLE.
    """

    file_name: str
    height: int
    width: int
    # With "gt_boxes" and "gt_classes", "gt_masks" for the task segm, "gt_keypoints" (G, K, 3) and
    # "gt_areas" (G,) for the task keypoints.
    objects: Instances
    ignored: Boxes  # crowds and difficult objects
    # By run, with "pred_boxes", "scores" and "pred_classes", and "pred_masks" or "pred_keypoints"
    # (N, K, 3).
    detections: tuple[Instances, ...]

    def targets(self, task: str) -> tuple[Instances, Boxes]:
        """
        Returns:
            (Instances, Boxes): the objects, and boxes in which detections do not count. As in
            COCO's evaluation, those without a labeled keypoint do not count for keypoints.
        """
        if task != "keypoints":
            return self.objects, self.ignored
        is_labeled = (self.objects.gt_keypoints[..., 2] > 0).any(dim=1)
        fields = ("gt_boxes", "gt_classes", "gt_keypoints", "gt_areas")
        objects = Instances(
            self.objects.image_size, **{x: self.objects.get(x)[is_labeled] for x in fields}
        )
        return objects, Boxes.cat([self.ignored, self.objects.gt_boxes[~is_labeled]])


class ComparedDataset(NamedTuple):
    name: str
    class_names: Sequence[str]
    images: list[ComparedImage]
    tasks: Sequence[str] = ("bbox",)  # of TASKS, those that detections of all runs can be judged by
    keypoint_sigmas: Sequence[float] = ()

    def judge(self, run: int, task: str) -> list[Judgement]:
        """
        Args:
            run (int): its index among the folders.

        Returns:
            list[Judgement]: of its detections on each image.
        """
        return [self._judge(x, x.detections[run], task) for x in self.images]

    def _judge(self, image: ComparedImage, detections: Instances, task: str) -> Judgement:
        objects, ignored = image.targets(task)
        overlap: Optional[Tensor] = None
        if task == "segm":
            overlap = mask_iou(detections.pred_masks, objects.gt_masks)
        elif task == "keypoints":
            sigmas = torch.tensor(self.keypoint_sigmas)
            overlap = keypoint_similarity(
                detections.pred_keypoints, objects.gt_keypoints, objects.gt_areas, sigmas
            )
        return judge_detections(detections, objects, ignored, overlap)


def read_compared_dataset(
    name: str, folders: Sequence[Path], keypoint_sigmas: Sequence[float] = ()
) -> ComparedDataset:
    """
    Args:
        name (str): in DatasetCatalog.
        folders: of the detections of each run.
        keypoint_sigmas: TEST.KEYPOINT_OKS_SIGMAS. If empty, those of COCO's 17 keypoints.

    Raises:
        InputError: if detections cannot be read, or are not of the dataset.
    """
    records = handle_difficult_objects(DatasetCatalog.get(name), [name], "ignore")
    detections = [_read_detections(name, x) for x in folders]
    image_ids = {str(x["image_id"]) for x in records}
    for folder, detections_of_run in zip(folders, detections, strict=True):
        check_image_ids(detections_of_run, image_ids, str(folder))
    sigmas = list(keypoint_sigmas) or Params("keypoints").kpt_oks_sigmas.tolist()
    tasks = _find_tasks(records, detections, len(sigmas))
    images = [
        _to_image(record, [x.get(str(record["image_id"]), []) for x in detections], tasks)
        for record in records
    ]
    for image in images:
        _check_masks(image, name)
    class_names = MetadataCatalog.get(name).thing_classes
    return ComparedDataset(name, class_names, images, tasks, sigmas)


def _read_detections(name: str, folder: Path) -> dict[str, list[Detection]]:
    """
    Returns:
        dict[str, list[Detection]]: by image id.
    """
    metadata = MetadataCatalog.get(name)
    detections: dict[str, list[Detection]] = {}
    if evaluator_type(name) == "pascal_voc":
        for category, class_name in enumerate(metadata.thing_classes):
            columns = read_comp4_file(comp4_file(folder, metadata.split, class_name))
            for image_id, score, box in zip(*columns, strict=True):
                detections.setdefault(image_id, []).append(Detection(box, score, category))
        return detections
    file = folder / COCO_RESULTS
    categories = metadata.get("thing_dataset_id_to_contiguous_id") or {
        i: i for i in range(len(metadata.thing_classes))
    }
    for x in read_coco_results(file, categories):
        if "bbox" not in x:
            raise InputError(f"{file} has detections without 'bbox'.")
        box = BoxMode.convert(x["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        category = categories[x["category_id"]]
        detections.setdefault(str(x["image_id"]), []).append(
            Detection(box, x["score"], category, x.get("segmentation"), x.get("keypoints"))
        )
    return detections


def _find_tasks(
    records: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, list[Detection]]],
    num_keypoints: int,
) -> list[str]:
    """
    Returns:
        list[str]: the tasks for which objects and detections have what is needed.
    """
    objects = [x for record in records for x in record["annotations"] if not x.get("iscrowd", 0)]
    found = [x for of_run in detections for of_image in of_run.values() for x in of_image]
    tasks = ["bbox"]
    if not objects or not found:
        return tasks
    if all(x.get("segmentation") for x in objects) and all(x.mask for x in found):
        tasks.append("segm")
    counts = {len(x.get("keypoints") or ()) for x in objects}
    counts |= {len(x.keypoints or ()) for x in found}
    if counts == {3 * num_keypoints}:
        tasks.append("keypoints")
    return [x for x in TASKS if x in tasks]


def _to_image(
    record: dict[str, Any], detections: list[list[Detection]], tasks: Sequence[str]
) -> ComparedImage:
    size = (record["height"], record["width"])
    objects, ignored = (
        [x for x in record["annotations"] if bool(x.get("iscrowd", 0)) == is_crowd]
        for is_crowd in (False, True)
    )
    targets = Instances(
        size,
        gt_boxes=_to_boxes([_xyxy(x) for x in objects]),
        gt_classes=torch.tensor([x["category_id"] for x in objects], dtype=torch.int64),
    )
    if "segm" in tasks:
        targets.gt_masks = [_to_rle(x["segmentation"], size) for x in objects]
    if "keypoints" in tasks:
        targets.gt_keypoints = _to_keypoints([x["keypoints"] for x in objects])
        # As detectron2 converts datasets to COCO's format: records lack the area of its files.
        targets.gt_areas = torch.tensor([_area(x, size) for x in objects], dtype=torch.float32)
    return ComparedImage(
        record["file_name"],
        *size,
        targets,
        _to_boxes([_xyxy(x) for x in ignored]),
        tuple(_to_instances(x, size, tasks) for x in detections),
    )


def _to_instances(
    detections: Sequence[Detection], size: tuple[int, int], tasks: Sequence[str]
) -> Instances:
    instances = Instances(
        size,
        pred_boxes=_to_boxes([x.box for x in detections]),
        scores=torch.tensor([x.score for x in detections], dtype=torch.float32),
        pred_classes=torch.tensor([x.category for x in detections], dtype=torch.int64),
    )
    if "segm" in tasks:
        instances.pred_masks = [x.mask for x in detections]
    if "keypoints" in tasks:
        keypoints = _to_keypoints([x.keypoints for x in detections])
        # In COCO's files they are indices of pixels. detectron2 loads those of objects as it does
        # here: the middle of the pixel.
        keypoints[..., :2] += 0.5
        instances.pred_keypoints = keypoints
    return instances


def _to_boxes(boxes: Sequence[Sequence[float]]) -> Boxes:
    return Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4))


def _to_keypoints(keypoints: Sequence[Any]) -> Tensor:
    num_keypoints = len(keypoints[0]) // 3 if keypoints else 0
    return torch.tensor(keypoints, dtype=torch.float32).reshape(len(keypoints), num_keypoints, 3)


def _to_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """
    Args:
        segmentation: of detectron2's dataset format: polygons, or RLE.
    """
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, *size)
    if isinstance(segmentation, dict):
        return segmentation
    return mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))


def _area(annotation: dict[str, Any], size: tuple[int, int]) -> float:
    if annotation.get("segmentation"):
        return float(mask_utils.area(_to_rle(annotation["segmentation"], size)))
    return float(_to_boxes([_xyxy(annotation)]).area())


def _xyxy(annotation: dict[str, Any]) -> list[float]:
    return BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _check_masks(image: ComparedImage, name: str) -> None:
    for detections in image.detections if image.objects.has("gt_masks") else ():
        for mask in detections.pred_masks:
            if mask["size"] != [image.height, image.width]:
                raise InputError(
                    f"{name}: a mask of {mask['size'][1]} x {mask['size'][0]} pixels was detected "
                    f"on {image.file_name}, which has {image.width} x {image.height}."
                )
