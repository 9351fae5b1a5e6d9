import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from ..config import add_ohem_config
from ..model_zoo import get_config_file
from ..utils import InputError

__all__ = ["fall_back_to_cpu", "load_config"]


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """
    Args:
        config_file (str): a yaml file, named with --config-file, or the name of one of this
            package's, see :func:`ohem_d2.model_zoo.get_config_file`.
        opts (Sequence[str]): alternating keys and values, which override the file.

    Returns:
        CfgNode: a detectron2 config with the keys of :func:`add_ohem_config`.

    Raises:
        InputError: if the file is missing, or the file or the options cannot be read.
    """
    cfg = get_cfg()
    add_ohem_config(cfg)
    if not os.path.exists(config_file):
        try:
            config_file = get_config_file(config_file)
        except InputError as e:
            raise InputError(f"--config-file is {config_file!r}, which does not exist. {e}") from e
    try:
        cfg.merge_from_file(config_file)
        cfg.merge_from_list(list(opts))
    except Exception as e:  # which exception depends on what is wrong
        raise InputError(f"The config {config_file} cannot be read: {e}") from e
    return cfg


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
