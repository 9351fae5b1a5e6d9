from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..utils import config_errors
from .strict_checkpoint import StrictCheckpointer

__all__ = ["load_model"]


def load_model(cfg: CfgNode) -> nn.Module:
    """
    Args:
        cfg (CfgNode): a detectron2 config.

    Returns:
        nn.Module: the model that it describes, with the weights of `cfg.MODEL.WEIGHTS`, in
        evaluation mode.

    Raises:
        InputError: if the model cannot be built, or the weights cannot be read, or are not the
            model's.
    """
    with config_errors(cfg):
        model = build_model(cfg).eval()
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
