"""
Convert the selective-search boxes that Fast R-CNN's authors provide for PASCAL VOC as MATLAB files
to a proposal file of detectron2.

    %(prog)s voc_2007_trainval voc_2007_trainval.mat voc_2007_trainval.pkl
"""

from pathlib import Path
from typing import Optional

import numpy as np
from detectron2.data import DatasetCatalog

from ..data.proposal_file import check_proposals, make_proposals, write_proposals
from ..engine import InputError, import_module
from ..engine.input_checks import check_dataset
from .command_line import add_import_argument, exit_on_error, make_parser


def read_matlab(path: Path) -> tuple[list[np.ndarray], Optional[list[str]]]:
    """
    Returns:
        (list[np.ndarray], Optional[list[str]]): the boxes (Ri, 4) of each image as in the file,
        and the image ids if the file has them.

    Raises:
        InputError: if it is not such a file.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError("MATLAB files need SciPy: pip install scipy") from None
    try:
        content = loadmat(path)
    except NotImplementedError:
        raise InputError(
            f"{path} is in the format of MATLAB 7.3, which scipy cannot read. "
            "Load it in MATLAB or Octave and save it with the option -v7."
        ) from None
    except Exception as e:  # other bytes may raise anything
        raise InputError(f"{path} is not a MATLAB file: {type(e).__name__}: {e}") from e
    boxes = content.get("boxes")
    if boxes is None or boxes.dtype != object:
        raise InputError(
            f"{path} has no cell array 'boxes' with the boxes of each image. It has "
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
        list[np.ndarray]: the boxes of the dataset's images, in its order.

    Raises:
        InputError: if they belong to another dataset.
    """
    # Without ids, the order is that of the image-set file, as in detectron2.
    expected = len(image_ids) if images is None else len(images)
    if len(boxes) != expected:
        raise InputError(
            f"The file has the boxes of {len(boxes)} images, but "
            + (f"{dataset} has" if images is None else "the ids of")
            + f" {expected}. It is incomplete or belongs to another dataset."
        )
    if images is None:
        return boxes
    by_id = dict(zip(images, boxes, strict=True))
    missing = [x for x in image_ids if x not in by_id]
    if missing:
        raise InputError(
            f"The file lacks {len(missing)} of the {len(image_ids)} images of {dataset}, such as "
            f"image {missing[0]}. It belongs to another dataset."
        )
    return [by_id[x] for x in image_ids]


def convert_boxes(image_id: str, boxes: np.ndarray) -> np.ndarray:
    """
    Args:
        boxes (np.ndarray): (R, 4), y0, x0, y1, x1: pixels counted from 1, the last one included.

    Returns:
        np.ndarray: (R, 4) float32, in detectron2's coordinates.

    Raises:
        InputError: if they are not such boxes.
    """
    if boxes.size == 0:  # MATLAB's empty matrix has no columns
        return np.zeros((0, 4), dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise InputError(
            f"Image {image_id}: its boxes have shape {boxes.shape} and type {boxes.dtype}, "
            "not four numbers each."
        )
    if boxes.min() < 1:
        raise InputError(
            f"Image {image_id}: its boxes have a coordinate {boxes.min()}, but the files of Fast "
            "R-CNN's authors count pixels from 1."
        )
    # To float first: the file's numbers may be unsigned.
    return boxes[:, [1, 0, 3, 2]].astype(np.float32) - np.array([1, 1, 0, 0], np.float32)


def convert(dataset: str, matlab_file: Path, output: Path) -> None:
    """
    Raises:
        InputError: if the input cannot be used.
    """
    check_dataset(dataset, "the command line")
    if not matlab_file.exists():
        raise InputError(f"{matlab_file} does not exist.")
    if output.exists():
        raise InputError(f"{output} already exists. Move it away to write it again.")
    dataset_dicts = DatasetCatalog.get(dataset)
    image_ids = [str(x["image_id"]) for x in dataset_dicts]
    content = read_matlab(matlab_file)
    sizes = [(x["height"], x["width"]) for x in dataset_dicts]
    try:
        boxes = match_images(*content, dataset, image_ids)
        boxes = [convert_boxes(*x) for x in zip(image_ids, boxes, strict=True)]
        proposals = make_proposals(image_ids, boxes, sizes)
        check_proposals(proposals, dataset_dicts)
    except InputError as e:
        raise InputError(f"{matlab_file} cannot be used with {dataset}. {e}") from e
    output.parent.mkdir(parents=True, exist_ok=True)
    write_proposals(output, proposals)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("dataset", help="name of the dataset in detectron2")
    parser.add_argument("matlab_file", type=Path)
    parser.add_argument("output", type=Path, help="proposal file to write")
    add_import_argument(parser)
    args = parser.parse_args()
    with exit_on_error():
        import_module(args.module)
        convert(args.dataset, args.matlab_file, args.output)
    print(args.output)
