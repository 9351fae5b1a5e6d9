"""
Configs by name: those of this package, and those of ``detectron2.model_zoo``.
"""

from pathlib import Path

from .utils import InputError, did_you_mean

__all__ = ["get_config_file"]


def get_config_file(config_path: str) -> str:
    """
    Args:
        config_path (str): a name relative to configs/, such as
            "PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml", or one of detectron2's, such as
            "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml".

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
        file = Path(_detectron2_config_file(config_path))
    if not file.is_file():
        known = [x.relative_to(folder).as_posix() for x in folder.rglob("*.*") if x.is_file()]
        raise InputError(
            f"Neither {folder} nor detectron2's model zoo has a config {config_path!r}."
            + did_you_mean(config_path, known)
        )
    return str(file)


def _detectron2_config_file(config_path: str) -> str:
    """
    Returns:
        str: what detectron2 has of that name, which may be a folder; or else "".
    """
    try:
        # Upstream's imports pkg_resources, which not every environment has.
        from detectron2.model_zoo import get_config_file

        return get_config_file(config_path)
    except (ImportError, RuntimeError):
        return ""
