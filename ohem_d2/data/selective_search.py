import ctypes
from types import ModuleType

import numpy as np

__all__ = ["MODES", "import_segmentation", "selective_search"]

MODES = ("fast", "quality")


def import_segmentation() -> ModuleType:
    """
    Returns:
        OpenCV's module with selective search.

    Raises:
        ImportError: if there is none, with the remedy.
    """
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError) as e:
        raise ImportError(
            "Selective search needs OpenCV with its contributed modules (cv2.ximgproc): "
            'pip install "ohem_d2[proposals]"'
        ) from e


def selective_search(image: np.ndarray, mode: str = "fast") -> np.ndarray:
    """
    Boxes of an image that may hold objects, by grouping its segments (Uijlings et al., Selective
    Search for Object Recognition, IJCV 2013), with OpenCV's implementation and its settings.

    Time and memory grow steeply with the size of the image. The paper's images, like those of
    PASCAL VOC, are 500 pixels wide.

    Args:
        image (np.ndarray): (height, width, 3) of uint8, BGR.
        mode (str): "fast" or "quality": more color spaces, segmentations and groupings, which
            give some three times as many boxes.

    Returns:
        np.ndarray: (R, 4) of float32, XYXY in pixels: the last column and row of a box are x1 - 1
        and y1 - 1. No box is there twice. They are in OpenCV's order, by the level of grouping
        times a random number, as in the paper (there from large to small, here the other way).
        The same image gives the same boxes in the same order. One without any structure gives one
        box, all of it.

    Raises:
        ImportError: if OpenCV has no selective search.
        ValueError: if the image or the mode is another.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, and has to be one of {MODES}.")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"The image is of shape {image.shape} and type {image.dtype}, and has to be of shape "
            "(height, width, 3) and type uint8. cv2.cvtColor converts gray ones."
        )
    search = import_segmentation().createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    # OpenCV draws the random numbers with the C library's rand(), which cv2.setRNGSeed leaves as
    # it is.
    ctypes.CDLL(None).srand(0)
    boxes = np.array(search.process(), dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # from widths and heights
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]
