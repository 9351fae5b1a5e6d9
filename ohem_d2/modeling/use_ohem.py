from pydoc import locate
from typing import Any, Union

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, ROIHeads, StandardROIHeads
from omegaconf import DictConfig

from .roi_heads import (
    HeuristicROIHeads,
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
)
from .roi_heads.ohem import default_warmup_iters

__all__ = ["use_ohem"]

# Heads, and the OHEM heads that replace them: the same model, trained on hard RoIs.
TWINS: dict[type[ROIHeads], type[OHEMMixin]] = {
    StandardROIHeads: OHEMROIHeads,
    HeuristicROIHeads: OHEMROIHeads,
    Res5ROIHeads: OHEMRes5ROIHeads,
    CascadeROIHeads: OHEMCascadeROIHeads,
}


def use_ohem(cfg: Union[CfgNode, DictConfig]) -> None:
    """
    Replace the ROI heads of a config by those that train on hard RoIs. A config that mines already
    is left alone.

    Args:
        cfg (CfgNode or DictConfig): a yacs config with the keys of :func:`add_ohem_config`, or a
            LazyConfig with "model". It is modified. If a LazyConfig has "train" and
            "lr_multiplier", their schedule gives `ohem_warmup_iters`, as MODEL.OHEM.WARMUP_ITERS
            None does in yacs: call this once the schedule is set.

    Raises:
        ValueError: if the model has no RoI heads, or there are no OHEM heads for them.
    """
    if isinstance(cfg, CfgNode):
        architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    else:
        architecture = _locate(cfg.model._target_)
    if not (isinstance(architecture, type) and issubclass(architecture, GeneralizedRCNN)):
        raise ValueError(f"{architecture.__name__} has no RoI heads, so there is nothing to mine.")

    if isinstance(cfg, CfgNode):
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    else:
        heads = _locate(cfg.model.roi_heads._target_)
    if issubclass(heads, OHEMMixin):
        return
    if heads not in TWINS:
        raise ValueError(
            f"There are no OHEM heads for {heads.__name__}: register a class that names "
            "ohem_d2.OHEMMixin before it, and use that class."
        )
    if isinstance(cfg, CfgNode):
        cfg.MODEL.ROI_HEADS.NAME = TWINS[heads].__name__
    else:
        cfg.model.roi_heads._target_ = TWINS[heads]
        if "train" in cfg and "lr_multiplier" in cfg:
            max_iter = cfg.train.max_iter
            lr_warmup_iters = round(cfg.lr_multiplier.get("warmup_length", 0) * max_iter)
            cfg.model.roi_heads.ohem_warmup_iters = default_warmup_iters(lr_warmup_iters, max_iter)


def _locate(target: Any) -> Any:
    # A LazyConfig has the class itself, or its name.
    return locate(target) if isinstance(target, str) else target
