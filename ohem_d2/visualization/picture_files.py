"""
Copies of images for a page.
"""

from pathlib import Path

from detectron2.data.detection_utils import read_image
from PIL import Image

from ..data.dataset_findings import describe_image_error
from ..utils import InputError, atomic_file

__all__ = ["read_picture", "write_jpeg"]


def read_picture(file_name: str) -> Image.Image:
    """
    Returns:
        Image: in RGB, as a model sees it: turned as its EXIF data says.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return Image.fromarray(read_image(file_name, "RGB"))
    except Exception as e:  # a broken image may raise anything
        raise InputError(describe_image_error(file_name, e)) from e


def write_jpeg(path: Path, picture: Image.Image, max_size: int) -> None:
    """
    Args:
        path (Path): the file, which is written as a whole or not at all.
        picture (Image):
        max_size (int): of the longer side, in pixels. What is larger is made smaller.
    """
    picture = picture.copy()
    picture.thumbnail((max_size, max_size))
    with atomic_file(path) as unfinished:
        picture.save(unfinished, format="JPEG", quality=90)
