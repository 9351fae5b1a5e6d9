#!/usr/bin/env python3
"""
Convert the selective-search boxes that Fast R-CNN's authors ship for PASCAL VOC, in MATLAB's
format, to a proposal file of detectron2.

    python tools/convert_proposals.py voc_2007_trainval voc_2007_trainval.mat voc_2007_trainval.pkl
"""

import argparse
import sys
from pathlib import Path
from typing import Optional

import numpy as np
from detectron2.data import DatasetCatalog

import ohem_d2  # noqa: F401  (registers the datasets)
from ohem_d2.data.proposal_file import check_proposals, make_proposals, write_proposals
from ohem_d2.engine import InputError
from ohem_d2.engine.input_checks import check_dataset


def read_matlab(path: Path) -> tuple[list[np.ndarray], Optional[list[str]]]:
    """
    Returns:
        (list[np.ndarray], Optional[list[str]]): the boxes (Ri, 4) of each image as they are in
        the file, and the image ids, if they are there.

    Raises:
        InputError: if it is another file.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError('MATLAB\'s files need scipy: pip install "ohem_d2[proposals]"') from None
    try:
        content = loadmat(path)
    except NotImplementedError:
        raise InputError(
            f"{path} is of MATLAB 7.3, a format that scipy does not read. "
            "Load it in MATLAB or Octave, and save it with the option -v7."
        ) from None
    except Exception as e:  # what scipy raises depends on the bytes
        raise InputError(f"{path} is not a MATLAB file: {type(e).__name__}: {e}") from e
    boxes = content.get("boxes")
    if boxes is None or boxes.dtype != object:
        raise InputError(
            f"{path} has no cell array 'boxes', with the boxes of each image of a dataset. It has "
            + ", ".join(f"{k} {v.shape}" for k, v in content.items() if hasattr(v, "shape"))
            + "."
        )
    images = content.get("images")
    if images is None:
        return list(boxes.ravel()), None
    return list(boxes.ravel()), [str(np.squeeze(x)) for x in images.ravel()]


def match_images(
    boxes: list[np.ndarray], images: Optional[list[str]], dataset: str, image_ids: list[str]
) -> list[np.ndarray]:
    """
    Returns:
        list[np.ndarray]: the boxes of the images of the dataset, in its order.

    Raises:
        InputError: if they are not of this dataset.
    """
    # Without ids, the order is that of the image-set file, in which detectron2 reads VOC, too.
    expected = len(image_ids) if images is None else len(images)
    if len(boxes) != expected:
        raise InputError(
            f"The file has the boxes of {len(boxes)} images, and "
            + (f"{dataset} has" if images is None else "the ids of")
            + f" {expected}. It is of another dataset or not whole."
        )
    if images is None:
        return boxes
    by_id = dict(zip(images, boxes, strict=True))
    missing = [x for x in image_ids if x not in by_id]
    if missing:
        raise InputError(
            f"The file lacks {len(missing)} of the {len(image_ids)} images of {dataset}, the first "
            f"of which is image {missing[0]}. It is of another dataset."
        )
    return [by_id[x] for x in image_ids]


def convert_boxes(image_id: str, boxes: np.ndarray) -> np.ndarray:
    """
    Args:
        boxes (np.ndarray): (R, 4), y0, x0, y1, x1: pixels counted from 1, the last one in the box.

    Returns:
        np.ndarray: (R, 4) of float32, as detectron2 has the boxes of PASCAL VOC.

    Raises:
        InputError: if they are something else.
    """
    if boxes.size == 0:  # MATLAB's empty matrix has no columns
        return np.zeros((0, 4), dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise InputError(
            f"Image {image_id}: its boxes are of shape {boxes.shape} and type {boxes.dtype}, and "
            "not four numbers each."
        )
    if boxes.min() < 1:
        raise InputError(
            f"Image {image_id}: its boxes have a coordinate {boxes.min()}, and pixels are counted "
            "from 1 in the files of Fast R-CNN's authors. This one is of another kind."
        )
    # Before the subtraction, as theirs may be unsigned.
    return boxes[:, [1, 0, 3, 2]].astype(np.float32) - np.float32([1, 1, 0, 0])


def convert(dataset: str, matlab_file: Path, output: Path) -> None:
    """
    Raises:
        InputError: for what cannot be converted.
    """
    check_dataset(dataset, "the command line")
    if not matlab_file.exists():
        raise InputError(f"{matlab_file} does not exist.")
    if output.exists():
        raise InputError(f"{output} is there already. Move it away to write it anew.")
    dataset_dicts = DatasetCatalog.get(dataset)
    image_ids = [str(x["image_id"]) for x in dataset_dicts]
    boxes = match_images(*read_matlab(matlab_file), dataset, image_ids)
    boxes = [convert_boxes(*x) for x in zip(image_ids, boxes, strict=True)]
    sizes = [(x["height"], x["width"]) for x in dataset_dicts]
    proposals = make_proposals(image_ids, boxes, sizes)
    try:
        check_proposals(proposals, dataset_dicts)
    except ValueError as e:
        raise InputError(f"{matlab_file} is not of {dataset}. {e}") from e
    output.parent.mkdir(parents=True, exist_ok=True)
    write_proposals(output, proposals)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="the name of the dataset in detectron2")
    parser.add_argument("matlab_file", type=Path)
    parser.add_argument("output", type=Path, help="the proposal file to write")
    args = parser.parse_args()
    try:
        convert(args.dataset, args.matlab_file, args.output)
    except InputError as e:
        sys.exit(f"convert_proposals.py: {e}")
    print(args.output)


if __name__ == "__main__":
    main()
