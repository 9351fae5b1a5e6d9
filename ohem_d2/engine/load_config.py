import os
from collections.abc import Sequence
from pathlib import Path

import detectron2.model_zoo
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog

from ..config import add_ohem_config
from ..data.datasets.by_path import is_path, register_by_path
from ..model_zoo import get_config_file
from ..utils import InputError

__all__ = ["fall_back_to_cpu", "find_config", "load_config"]


def find_config(config_file: str) -> str:
    """
    Args:
        config_file (str): a yaml file, named with --config-file, or a name that
            :func:`ohem_d2.model_zoo.get_config_file` knows.

    Returns:
        str: the file.

    Raises:
        InputError: if there is none.
    """
    if os.path.exists(config_file):
        return config_file
    try:
        return get_config_file(config_file)
    except InputError as e:
        raise InputError(f"--config-file is {config_file!r}, which does not exist. {e}") from e


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """
    Args:
        config_file (str): see :func:`find_config`.
        opts (Sequence[str]): alternating keys and values, which override the file.

    Returns:
        CfgNode: a detectron2 config with the keys of :func:`add_ohem_config`.

    Raises:
        InputError: if the file is missing, or the file or the options cannot be read.
    """
    config_file = find_config(config_file)
    cfg = get_cfg()
    add_ohem_config(cfg)
    try:
        cfg.merge_from_file(config_file, allow_unsafe=is_trusted(config_file))
        cfg.merge_from_list(list(opts))
    except Exception as e:  # which exception depends on what is wrong
        raise InputError(f"The config {config_file} cannot be read: {e}") from e
    _use_datasets_by_path(cfg, config_file, opts)
    return cfg


def is_trusted(config_file: str) -> bool:
    """
    Returns:
        bool: whether a config may run code, as detectron2's own of RetinaNet do.
    """
    zoo = Path(detectron2.model_zoo.__file__).resolve().parent
    return Path(config_file).resolve().is_relative_to(zoo)


def _use_datasets_by_path(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> None:
    """
    Register the datasets that are named by their files, and set MODEL.ROI_HEADS.NUM_CLASSES from
    them, unless it is given.
    """
    names = [x for x in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if is_path(x)]
    if not names:
        return
    for name in names:
        register_by_path(name)
    classes = {x: MetadataCatalog.get(x).thing_classes for x in names}
    for name in names[1:]:
        if classes[name] != classes[names[0]]:
            raise InputError(
                f"{names[0]} has the classes {', '.join(classes[names[0]])}, but {name} has "
                f"{', '.join(classes[name])}. Datasets of one config need the same."
            )
    content = CfgNode.load_yaml_with_base(config_file, allow_unsafe=is_trusted(config_file))
    is_given = "NUM_CLASSES" in content.get("MODEL", {}).get("ROI_HEADS", {})
    if not is_given and "MODEL.ROI_HEADS.NUM_CLASSES" not in opts:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes[names[0]])


def fall_back_to_cpu(cfg: CfgNode) -> bool:
    """
    Set MODEL.DEVICE to "cpu" if it is a CUDA device and CUDA is not available.

    Returns:
        bool: whether it was changed.
    """
    falls_back = cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()
    if falls_back:
        cfg.MODEL.DEVICE = "cpu"
    return falls_back
