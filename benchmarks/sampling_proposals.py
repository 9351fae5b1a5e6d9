"""
Proposals of selective search for the datasets of benchmarks/compare_sampling.py.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from tqdm import tqdm

from ohem_d2.data.proposal_file import make_proposals, write_proposals
from ohem_d2.data.selective_search import selective_search

__all__ = ["compute_proposals"]


def compute_proposals(dataset: str, min_size: int, path: Path) -> None:
    """
    Write a proposal file. tools/compute_proposals.py searches images as they are in their files;
    here they have the size that the detector sees, which takes a fifth of the time.

    Args:
        dataset (str): a registered dataset.
        min_size (int): of the shorter side of the image that is searched, in pixels.
        path (Path): the file to write.
    """

    def search(record: dict) -> tuple[np.ndarray, tuple[int, int]]:
        image = read_image(record["file_name"], format="BGR")
        height, width = image.shape[:2]
        resize = T.ResizeShortestEdge(min_size).get_transform(image)
        boxes = selective_search(np.ascontiguousarray(resize.apply_image(image)))
        return resize.inverse().apply_box(boxes).clip(0, [width, height] * 2), (height, width)

    records = DatasetCatalog.get(dataset)
    # OpenCV lets go of Python's lock while it searches.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(tqdm(pool.map(search, records), dataset, len(records), unit="image"))
    boxes, sizes = zip(*found, strict=True)
    write_proposals(path, make_proposals([x["image_id"] for x in records], boxes, sizes))
