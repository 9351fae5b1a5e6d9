"""
The picture of an image with the detections of two runs, right and wrong, for the page that compares
them. Boxes, masks and keypoints are drawn by the browser.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import contourpy
import numpy as np
from detectron2.structures import Instances
from matplotlib.path import Path as Outline
from pycocotools import mask as mask_utils
from torch import Tensor

from ..evaluation.compared_dataset import ComparedDataset, ComparedImage
from ..evaluation.error_breakdown import VERDICTS, ErrorCounts, Judgement, count_errors
from ..utils import InputError
from .picture_files import read_picture, write_jpeg

__all__ = ["LABEL_SIZE", "LETTERS", "Pictures", "describe", "show_image"]

LETTERS = ("A", "B")  # in pictures, because matplotlib's font lacks characters of names

LONGER_SIDE = 800  # of the pictures, in pixels
LABEL_SIZE = 0.028  # of the width of a picture
TOLERANCE = 0.5  # of the outlines of masks, in pixels


class Mark(NamedTuple):
    """
    An object or a detection on a picture, with its label.
    """

    kind: str  # "object", "missed", "ignored" or a verdict
    box: list[float]  # XYXY
    outline: str = ""  # of the mask, a path in SVG
    points: str = ""  # keypoints, a path in SVG
    text: str = ""
    text_at: tuple[float, float] = (0.0, 0.0)
    text_anchor: str = "start"  # or "end", as in SVG


class Pictures:
    """
    Copies of images. Each is made once.

    Attributes:
        broken (list[str]): what is wrong with images of which there can be none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[str] = []
        self._names: dict[str, str] = {}  # by file name of the image

    def add(self, image: ComparedImage) -> str:
        """
        Returns:
            str: path of the copy within the folder. Empty if the image is broken.
        """
        file_name = image.file_name
        if file_name not in self._names:
            name = f"image_{len(self._names) + 1}.jpg"  # a name that any browser can open
            try:
                picture = read_picture(file_name)
                if picture.size != (image.width, image.height):
                    raise InputError(
                        f"The image {file_name} has {picture.width} x {picture.height} pixels, but "
                        f"is annotated as {image.width} x {image.height}."
                    )
                write_jpeg(self.folder / name, picture, LONGER_SIDE)
            except InputError as e:
                self.broken.append(str(e))
                name = ""
            self._names[file_name] = name
        return self._names[file_name]


def show_image(
    dataset: ComparedDataset,
    index: int,
    task: str,
    judgements: Sequence[Judgement],
    thresholds: Sequence[float],
    pictures: Pictures,
) -> dict[str, Any]:
    """
    Args:
        index (int): of the image.
        judgements, thresholds: of each run; detections with lower scores are not shown.

    Returns:
        dict: the template's variables for an image.
    """
    image = dataset.images[index]
    return {
        "name": os.path.basename(image.file_name),
        "picture": pictures.add(image),
        "image": image,
        "sides": [
            {
                "letter": letter,
                "marks": _mark(image, task, found, judgement, thresh, dataset.class_names),
                "words": describe(count_errors([judgement], thresh)),
            }
            for letter, found, judgement, thresh in zip(
                LETTERS, image.detections, judgements, thresholds, strict=True
            )
        ],
    }


def _mark(
    image: ComparedImage,
    task: str,
    detections: Instances,
    judgement: Judgement,
    thresh: float,
    class_names: Sequence[str],
) -> list[Mark]:
    """
    Returns:
        list[Mark]: what is on the picture of one run, in drawing order.
    """
    objects, ignored = image.targets(task)
    marks = [Mark("ignored", box) for box in ignored.tensor.tolist()]
    for i, score in enumerate(judgement.found_scores.tolist()):
        box = objects.gt_boxes.tensor[i].tolist()
        shape = _shape(objects, task, i, "gt")
        if score >= thresh:
            marks.append(Mark("object", box, *shape))
        else:
            text = f"missed: {class_names[objects.gt_classes[i]]}"
            marks.append(Mark("missed", box, *shape, text, *_place(box, image, is_below=True)))
    for i in judgement.scores.argsort().tolist():
        if (score := float(judgement.scores[i])) >= thresh:
            box = detections.pred_boxes.tensor[i].tolist()
            text = f"{class_names[detections.pred_classes[i]]} {100 * score:.0f} %"
            kind = VERDICTS[judgement.verdicts[i]]
            shape = _shape(detections, task, i, "pred")
            marks.append(Mark(kind, box, *shape, text, *_place(box, image, is_below=False)))
    return marks


def _shape(instances: Instances, task: str, index: int, prefix: str) -> tuple[str, str]:
    """
    Returns:
        (str, str): outline and points of a mark.
    """
    if task == "segm":
        return outline(instances.get(f"{prefix}_masks")[index]), ""
    if task == "keypoints":
        return "", points(instances.get(f"{prefix}_keypoints")[index])
    return "", ""


def outline(mask: dict[str, Any]) -> str:
    """
    Args:
        mask: COCO's compressed RLE.

    Returns:
        str: a path in SVG around all of its parts and holes, in pixels of the image.
    """
    # A margin of zeros closes the lines at the edge of the image. Values are at the middle of
    # pixels: that of the first is at (.5, .5) of the image and (1, 1) of the padded mask.
    padded = np.pad(mask_utils.decode(mask).astype(np.float64), 1)
    path = ""
    for line in contourpy.contour_generator(z=padded).lines(0.5):
        shape = Outline(np.asarray(line) - 0.5)
        shape.simplify_threshold = TOLERANCE
        vertices = np.asarray(shape.cleaned(simplify=True).vertices)[
            :-1
        ]  # the last one marks the end
        path += "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in vertices) + "Z"
    return path


def points(keypoints: Tensor) -> str:
    """
    Args:
        keypoints (Tensor): (K, 3), XY and 0 for a keypoint that is not there.

    Returns:
        str: a path in SVG of lines without length. Their round ends are dots.
    """
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y, is_there in keypoints.tolist() if is_there > 0)


def _place(
    box: Sequence[float], image: ComparedImage, is_below: bool
) -> tuple[tuple[float, float], str]:
    """
    Returns:
        (tuple[float, float], str): position and anchor of the label of a box: outside the box but
        inside the picture.
    """
    x0, y0, x1, y1 = box
    size = LABEL_SIZE * image.width
    if is_below:
        y = y1 + size if y1 + 1.2 * size < image.height else y1 - 0.4 * size
    else:
        y = y0 - 0.4 * size if y0 > 1.4 * size else y0 + 1.1 * size
    return ((x1, y), "end") if x0 > 0.7 * image.width else ((x0, y), "start")


def describe(counts: ErrorCounts) -> str:
    """
    Returns:
        str: the counts in words, such as "2 right, 1 missed, 1 duplicate".
    """
    words = {"right": counts.right, "missed": counts.missed, **counts.wrong}
    return ", ".join(f"{n} {x}" for x, n in words.items() if n) or "nothing to find, and no error"
