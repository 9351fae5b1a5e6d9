"""
Average precision as PASCAL VOC defines it (Everingham et al., The PASCAL Visual Object Classes
(VOC) Challenge, IJCV 2010), from files in the format of its development kit.

Shapes: N detections and G objects of a class, T thresholds of the IoU.
"""

import logging
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.utils import comm
from tabulate import tabulate
from torchvision.ops import box_iou

from ..data.datasets.voc import annotations_file, read_annotations, read_image_set
from ..utils import InputError, atomic_file, write_json
from .detection_files import check_image_ids, comp4_file, read_comp4_file

__all__ = ["Objects", "PascalVOCEvaluator", "average_precision"]

# Divided, not added up, so that an IoU or recall of exactly a threshold reaches it.
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
ELEVEN_RECALLS = np.arange(11) / 10

METRICS = ("AP", "AP50", "AP75", "AP50 11-point", "AP50 area")


class Objects(NamedTuple):
    """
    All objects of a class.
    """

    image_ids: list[str]  # G
    boxes: np.ndarray  # (G, 4) of float64, XYXY in detectron2's pixel coordinates
    difficult: np.ndarray  # (G,) of bool


class PascalVOCEvaluator(PascalVOCDetectionEvaluator):
    """
    PASCAL VOC's AP, at COCO's IoU thresholds .50 to .95.

    Differences from the parent class:
        Scores and boxes are not rounded.
        An IoU of exactly the threshold suffices, as in the development kit and in COCO.
        Detections with equal scores keep the order of the images.
        A class without objects, or with difficult ones only, has no AP (NaN). The means are over
        the other classes, as in COCO.
        A recall of exactly .3, .6 or .7 reaches that point of the 11-point metric.
        Objects in the XML files need only a name and a box, see :func:`read_annotations`.
        Any year is accepted. Class names may have a slash.
    """

    def __init__(self, dataset_name: str, output_dir: Optional[str] = None) -> None:
        """
        Args:
            dataset_name (str): a dataset in PASCAL VOC's layout, see `register_pascal_voc`. The
                metric of year 2007 is the 11-point AP, that of other years the area under the
                precision-recall curve.
            output_dir (str): a local folder for the detections (comp4_det_SPLIT_CLASS.txt, a file
                for each class) and voc_results.json. None writes nothing.

        Raises:
            InputError: if the dataset has another layout.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("split"):
            raise InputError(f"{dataset_name} does not have PASCAL VOC's layout.")
        # The parent's would refuse other years than 2007 and 2012.
        self._dataset_name = dataset_name
        self._folder, self._split = metadata.dirname, metadata.split
        self._class_names = metadata.thing_classes
        self._has_annotations = metadata.get("has_annotations", True)
        self._is_2007 = str(metadata.get("year")) == "2007"
        self._cpu_device = torch.device("cpu")
        self._output_dir = output_dir
        self._logger = logging.getLogger(__name__)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for input_, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(self._cpu_device)
            # The inverse of how detectron2 loads the boxes of objects.
            boxes = instances.pred_boxes.tensor.double() + torch.tensor([1, 1, 0, 0])
            scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
            for box, score, category in zip(boxes.tolist(), scores, classes, strict=True):
                # Nine digits are enough for any float32.
                numbers = " ".join(f"{x:.9g}" for x in [score, *box])
                self._predictions[category].append(f"{input_['image_id']} {numbers}\n")

    def evaluate(self) -> Optional[dict[str, dict[str, float]]]:
        """
        Write the detections of all processes, and evaluate the files.

        Returns:
            dict: see :meth:`evaluate_folder`. Empty if the annotations are not public. None in all
            processes but the main one.
        """
        all_predictions = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(self._output_dir or temporary)
            folder.mkdir(parents=True, exist_ok=True)
            for category, name in enumerate(self._class_names):
                with atomic_file(comp4_file(folder, self._split, name)) as file:
                    lines = [line for x in all_predictions for line in x.get(category, [])]
                    file.write_text("".join(lines))
            if not self._has_annotations:
                self._logger.info(
                    f"The annotations of {self._dataset_name} are not public: the server of its "
                    f"organizers evaluates the files comp4_det_{self._split}_*.txt."
                )
                return {}
            return self.evaluate_folder(folder)

    def evaluate_folder(self, folder: str | os.PathLike) -> dict[str, dict[str, float]]:
        """
        Evaluate the detections in files, in one process.

        Args:
            folder (str): holds comp4_det_SPLIT_CLASS.txt for each class.

        Returns:
            dict: has a key "bbox", whose value is a dict of "AP", "AP50", "AP75", and
            "AP50-CLASS" for each class, in percent, by the dataset's metric.

        Raises:
            InputError: if a file is missing or broken, or has detections on images that are not
            in the image set.
        """
        results = self._evaluate_folder(folder)
        if self._output_dir is not None:
            write_json(Path(self._output_dir) / "voc_results.json", results)
        self._log(results)
        return {
            "bbox": {
                **{x: results[x] for x in ("AP", "AP50", "AP75")},
                **{f"AP50-{name}": x["AP50"] for name, x in results["classes"].items()},
            }
        }

    def _evaluate_folder(self, folder: str | os.PathLike) -> dict[str, Any]:
        image_ids = read_image_set(self._folder, self._split)
        objects = self._read_objects(image_ids)
        known = set(image_ids)
        classes = {}
        for name in self._class_names:
            path = comp4_file(folder, self._split, name)
            detections = read_comp4_file(path)
            check_image_ids(detections[0], known, f"{path} ({self._dataset_name})")
            # (T, 2): 11-point and area.
            ap = 100 * average_precision(*detections, objects[name], IOU_THRESHOLDS)
            by_metric = ap[:, 0 if self._is_2007 else 1]
            classes[name] = {
                "objects": int((~objects[name].difficult).sum()),
                "detections": len(detections[0]),
                "AP": float(by_metric.mean()),
                "AP50": float(by_metric[0]),
                "AP75": float(by_metric[5]),
                "AP50 11-point": float(ap[0, 0]),
                "AP50 area": float(ap[0, 1]),
            }
        with_objects = [x for x in classes.values() if x["objects"]]
        return {
            "dataset": self._dataset_name,
            "metric": "11-point" if self._is_2007 else "area",
            **{
                x: float(np.mean([c[x] for c in with_objects])) if with_objects else math.nan
                for x in METRICS
            },
            "classes": classes,
        }

    def _read_objects(self, image_ids: list[str]) -> dict[str, Objects]:
        """
        Returns:
            dict[str, Objects]: of each class of the dataset.
        """
        by_class = defaultdict(list)
        for image_id in image_ids:
            for x in read_annotations(annotations_file(self._folder, image_id)).objects:
                by_class[x.name].append((image_id, x.box, x.difficult))
        return {
            name: Objects(
                [x[0] for x in by_class[name]],
                np.array([x[1] for x in by_class[name]]).reshape(-1, 4) - [1, 1, 0, 0],
                np.array([x[2] for x in by_class[name]], dtype=bool),
            )
            for name in self._class_names
        }

    def _log(self, results: dict[str, Any]) -> None:
        rows = [[name, *x.values()] for name, x in results["classes"].items()]
        rows.append(["mean", None, None, *(results[x] for x in METRICS)])
        table = tabulate(
            rows,
            headers=["class", "objects", "detections", *METRICS],
            tablefmt="pipe",
            floatfmt=".3f",
            numalign="right",
        )
        self._logger.info(
            f"PASCAL VOC's AP on {self._dataset_name} (metric: {results['metric']}; nan: no "
            f"objects, left out of the mean):\n{table}"
        )


def average_precision(
    image_ids: Sequence[str],
    scores: np.ndarray,
    boxes: np.ndarray,
    objects: Objects,
    iou_thresholds: np.ndarray,
) -> np.ndarray:
    """
    The AP of one class. By decreasing score, a detection is right if it overlaps an object by at
    least the threshold, and the object that it overlaps most was not found yet. Difficult objects
    need not be found, and detections of them are neither right nor wrong.

    Args:
        image_ids (Sequence[str]): of the images of the N detections.
        scores (np.ndarray): (N,).
        boxes (np.ndarray): (N, 4) of float64, XYXY in detectron2's pixel coordinates, where the
            plain IoU is that of the protocol, which adds one to widths and heights.
        objects (Objects): of the class.
        iou_thresholds (np.ndarray): (T,), larger than 0.

    Returns:
        np.ndarray: (T, 2), in [0, 1]: the mean over recalls 0, .1, ... 1 of the highest precision
        at this or a higher recall (VOC 2007), and the area under that curve (since VOC 2010). NaN
        if all objects are difficult, or there are none.
    """
    num_objects = (~objects.difficult).sum()
    if num_objects == 0:
        return np.full((len(iou_thresholds), 2), np.nan)
    order = np.argsort(-scores, kind="stable")
    ious, matches = (x[order] for x in _match(image_ids, boxes, objects))
    difficult = objects.difficult[matches]
    aps = []
    for thresh in iou_thresholds:
        hits = np.flatnonzero((ious >= thresh) & ~difficult)
        _, first = np.unique(matches[hits], return_index=True)
        right = np.zeros(len(order), dtype=bool)
        right[hits[first]] = True
        right = right[(ious < thresh) | ~difficult]  # drop detections of difficult objects

        found = right.cumsum()
        recall = found / num_objects
        precision = found / np.arange(1, len(found) + 1)
        # The highest at this or a higher recall.
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        area = (np.diff(recall, prepend=0) * precision).sum()
        reached_at = np.searchsorted(recall, ELEVEN_RECALLS)
        aps.append((np.append(precision, 0)[reached_at].mean(), area))
    return np.array(aps)


def _match(
    image_ids: Sequence[str], boxes: np.ndarray, objects: Objects
) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        (np.ndarray, np.ndarray): the largest IoU of each detection with an object, (N,), 0 if its
        image has none, and the index of that object, (N,).
    """
    ious, matches = np.zeros(len(boxes)), np.zeros(len(boxes), dtype=np.int64)
    objects_by_image = _indices_by_image(objects.image_ids)
    for image_id, rows in _indices_by_image(image_ids).items():
        if image_id in objects_by_image:
            columns = np.array(objects_by_image[image_id])
            iou = box_iou(*map(torch.from_numpy, (boxes[rows], objects.boxes[columns]))).numpy()
            ious[rows] = iou.max(axis=1)
            matches[rows] = columns[iou.argmax(axis=1)]
    return ious, matches


def _indices_by_image(image_ids: Sequence[str]) -> dict[str, list[int]]:
    indices = defaultdict(list)
    for i, image_id in enumerate(image_ids):
        indices[image_id].append(i)
    return dict(indices)
