"""
The configs of this package, by name, as ``detectron2.model_zoo`` has those of detectron2.
"""

import difflib
from pathlib import Path

from .utils import InputError

__all__ = ["get_config_file"]


def get_config_file(config_path: str) -> str:
    """
    Args:
        config_path (str): a name relative to configs/, such as
            "PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml".

    Returns:
        str: the file.

    Raises:
        InputError: if there is no such config.
    """
    package = Path(__file__).parent
    # In an installed package, and in a clone.
    folder = next(x for x in (package / "configs", package.parent / "configs") if x.is_dir())
    file = folder / config_path
    if not file.is_file():
        known = [x.relative_to(folder).as_posix() for x in folder.rglob("*.*") if x.is_file()]
        close = difflib.get_close_matches(config_path, known)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"There is no config {config_path} in {folder}.{hint}")
    return str(file)
