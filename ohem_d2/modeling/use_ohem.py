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

__all__ = ["use_ohem"]

# The heads that take the place of others: the same model, trained on hard RoIs.
TWINS: dict[type[ROIHeads], type[OHEMMixin]] = {
    StandardROIHeads: OHEMROIHeads,
    HeuristicROIHeads: OHEMROIHeads,
    Res5ROIHeads: OHEMRes5ROIHeads,
    CascadeROIHeads: OHEMCascadeROIHeads,
}


def use_ohem(cfg: Union[CfgNode, DictConfig]) -> None:
    """
    Have a model trained on hard RoIs: name the ROI heads with online hard example mining that take
    the place of the config's. Nothing is changed if the config's mine already.

    Args:
        cfg (CfgNode or DictConfig): a config in yacs style, with the keys of
            :func:`add_ohem_config`, or in the style of LazyConfig, with "model". It is modified.

    Raises:
        ValueError: if the model has no RoI heads, or they are not known.
    """
    if isinstance(cfg, CfgNode):
        architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    else:
        architecture = _locate(cfg.model._target_)
    if not (isinstance(architecture, type) and issubclass(architecture, GeneralizedRCNN)):
        raise ValueError(f"A {architecture.__name__} has no RoI heads to mine for.")

    if isinstance(cfg, CfgNode):
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    else:
        heads = _locate(cfg.model.roi_heads._target_)
    if issubclass(heads, OHEMMixin):
        return
    if heads not in TWINS:
        raise ValueError(
            f"There are no OHEM heads for {heads.__name__}: register a class that names "
            "ohem_d2.OHEMMixin before it, and name that one."
        )
    if isinstance(cfg, CfgNode):
        cfg.MODEL.ROI_HEADS.NAME = TWINS[heads].__name__
    else:
        cfg.model.roi_heads._target_ = TWINS[heads]


def _locate(target: Any) -> Any:
    # LazyConfig has the class itself, or its name.
    return locate(target) if isinstance(target, str) else target
