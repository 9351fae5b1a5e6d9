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
        ImportError: if it is missing; the message names the remedy.
    """
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError) as e:
        raise ImportError(
            "Selective search needs OpenCV with its contributed modules (cv2.ximgproc): "
            'pip install "opencv-contrib-python<5"'
        ) from e


def selective_search(image: np.ndarray, mode: str = "fast") -> np.ndarray:
    """
    Propose boxes that may hold objects by grouping segments of the image (Uijlings et al.,
    Selective Search for Object Recognition, IJCV 2013), with OpenCV's implementation and settings.
    The same image gives the same boxes in the same order.

    Time and memory grow steeply with the image's size. The paper's images, like those of PASCAL
    VOC, are 500 pixels wide.

    Args:
        image (np.ndarray): (H, W, 3) uint8, BGR.
        mode (str): "fast", or "quality" with more color spaces, segmentations and groupings: about
            three times as many boxes.

    Returns:
        np.ndarray: (R, 4) float32, unique XYXY boxes in pixels; their last column and row are
        x1 - 1 and y1 - 1. OpenCV orders them by grouping level times a random number, small ones
        first (the paper has large ones first). A featureless image gives one box, all of it.

    Raises:
        ImportError: if OpenCV has no selective search.
        ValueError: if the mode is unknown or the image has another shape or dtype.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}. It must be one of {MODES}.")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"The image has shape {image.shape} and type {image.dtype}. It must have shape "
            "(height, width, 3) and type uint8. cv2.cvtColor converts gray images."
        )
    search = import_segmentation().createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    # OpenCV uses the C library's rand(), which cv2.setRNGSeed does not seed.
    ctypes.CDLL(None).srand(0)
    boxes = np.array(search.process(), dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # XYWH to XYXY
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]
