from collections.abc import Callable
from pydoc import locate
from typing import Any, Union

from detectron2.config import CfgNode as CN
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from omegaconf import DictConfig

__all__ = ["add_ohem_config", "use_ohem"]

# The ROI heads that take the place of others: the same model, trained on hard RoIs.
OHEM_ROI_HEADS = {
    "StandardROIHeads": "OHEMROIHeads",
    "HeuristicROIHeads": "OHEMROIHeads",
    "Res5ROIHeads": "OHEMRes5ROIHeads",
    "CascadeROIHeads": "OHEMCascadeROIHeads",
}


def use_ohem(cfg: Union[CN, DictConfig]) -> None:
    """
    Have a model trained on hard RoIs: name the ROI heads with online hard example mining that take
    the place of the config's. Nothing is changed if they are OHEM's already.

    Args:
        cfg (CfgNode or DictConfig): a config in yacs style, with the keys of
            :func:`add_ohem_config`, or in the style of LazyConfig, with "model". It is modified.

    Raises:
        ValueError: if the model has no RoI heads, or they are not known.
    """
    if isinstance(cfg, CN):
        architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        heads = cfg.MODEL.ROI_HEADS.NAME
    else:
        architecture = _locate(cfg.model._target_)
        heads = _locate(cfg.model.roi_heads._target_).__name__ if "roi_heads" in cfg.model else ""
    if not (isinstance(architecture, type) and issubclass(architecture, GeneralizedRCNN)):
        raise ValueError(f"A {architecture.__name__} has no RoI heads to mine for.")
    if heads in OHEM_ROI_HEADS.values():
        return
    if heads not in OHEM_ROI_HEADS:
        raise ValueError(
            f"There are no OHEM heads for {heads}: register a class that names ohem_d2.OHEMMixin "
            "before it, and name that one."
        )
    if isinstance(cfg, CN):
        cfg.MODEL.ROI_HEADS.NAME = OHEM_ROI_HEADS[heads]
    else:
        cfg.model.roi_heads._target_ = ROI_HEADS_REGISTRY.get(OHEM_ROI_HEADS[heads])


def _locate(target: Union[str, Callable]) -> Any:
    # LazyConfig has the class itself or its name.
    return locate(target) if isinstance(target, str) else target


def add_ohem_config(cfg: CN) -> None:
    """
    Add the config of online hard example mining, with its default values.
    """
    _C = cfg

    # Used if MODEL.ROI_HEADS.NAME is that of OHEM's heads. How many RoIs an image are kept is
    # MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.
    _C.MODEL.OHEM = CN()

    # A RoI is removed if its IoU with one of a larger loss is larger than this. 1.0 turns the NMS
    # off.
    _C.MODEL.OHEM.NMS_THRESH = 0.7

    # If False, all RoIs of an image compete in this NMS, as the paper's text reads. If True, only
    # those of the same label do (background is one label), as in the authors' code.
    _C.MODEL.OHEM.NMS_PER_CLASS = False

    # None: the hardest RoIs are kept whatever they are, as in the paper. Otherwise foreground and
    # background are mined apart, and at most this fraction of the kept RoIs is foreground. 0.25
    # is the 1:3 variant of other frameworks.
    _C.MODEL.OHEM.POSITIVE_FRACTION = None

    # Weights of the classification and the box regression loss in the ranking (not in training:
    # that is MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT, which the ranking includes).
    _C.MODEL.OHEM.CLS_LOSS_WEIGHT = 1.0
    _C.MODEL.OHEM.BOX_LOSS_WEIGHT = 1.0

    # Number of RoIs, of all images of a process together, in one read-only forward. It bounds the
    # memory, and does not change the result. 0: all at once.
    _C.MODEL.OHEM.MINING_BATCH_SIZE = 0

    # What mask and keypoint heads are trained on: "mined", the foreground among the mined RoIs, or
    # "sampled", a random sample of all foreground RoIs, as many as detectron2 samples: at most
    # BATCH_SIZE_PER_IMAGE * POSITIVE_FRACTION of MODEL.ROI_HEADS.
    _C.MODEL.OHEM.MASK_KEYPOINT_ROIS = "mined"

    # The following are used by OHEM's heads and by HeuristicROIHeads, its baseline.

    # A RoI is neither foreground nor background if a larger part of its area than this lies in an
    # ignore region: a crowd (COCO), or a difficult object (PASCAL VOC, see DATASETS.DIFFICULT).
    _C.MODEL.ROI_HEADS.IGNORE_IOA_THRESH = 0.7

    # The paper's bg_lo, of HeuristicROIHeads: background are the RoIs whose largest IoU with an
    # object is at least this (and below MODEL.ROI_HEADS.IOU_THRESHOLDS). Fast R-CNN has 0.1.
    _C.MODEL.ROI_HEADS.BG_LO = 0.0

    # Used if MODEL.BACKBONE.NAME is build_torchvision_backbone. MODEL.BACKBONE.FREEZE_AT counts
    # its stages: 2 freezes conv1 and conv2 of VGG.
    _C.MODEL.TORCHVISION = CN()

    # Name of an image classifier in torchvision that has `features`: VGG, SqueezeNet, DenseNet, ...
    _C.MODEL.TORCHVISION.NAME = "vgg16"

    # Names of the stages to return, "stage1" for the first. []: the last, "stage5" of VGG.
    _C.MODEL.TORCHVISION.OUT_FEATURES = []

    # Used if MODEL.ROI_BOX_HEAD.NAME is VGGBoxHead: output dimensions of fc6 and fc7. The second
    # of VGG_CNN_M_1024 is 1024.
    _C.MODEL.ROI_BOX_HEAD.FC_DIMS = [4096, 4096]

    # Used by VGGBoxHead: the probability that dropout zeroes an output of fc6 and fc7 in training.
    _C.MODEL.ROI_BOX_HEAD.DROPOUT = 0.5

    # The following are used by train_net.py.

    # What training makes of the objects that PASCAL VOC marks as difficult: "train" on them, as
    # detectron2; "drop" them, so that RoIs on them are background, as the paper's code; or make
    # them "ignore" regions.
    _C.DATASETS.DIFFICULT = "ignore"

    # Cut the images of a process into this many forward and backward passes, and accumulate their
    # gradients, for the memory of one. The paper has one image a pass.
    _C.SOLVER.ACCUMULATION_PASSES = 1
