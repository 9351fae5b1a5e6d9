"""
PointRend's mask head, on OHEM's heads and on PointRend's own with the mixin before them.
"""

import pytest
import torch
from conftest import (
    IMAGE_SIZE,
    NUM_CLASSES,
    build_heads,
    heads_config,
    make_inputs,
    mask_inputs,
    train_step,
)
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import BitMasks

from ohem_d2 import OHEMMixin

point_rend = pytest.importorskip(
    "detectron2.projects.point_rend", reason="this detectron2 has no PointRend"
)


@ROI_HEADS_REGISTRY.register()
class OHEMPointRendROIHeads(OHEMMixin, ROI_HEADS_REGISTRY.get("PointRendROIHeads")):
    pass


def make_cfg(*options):
    cfg = heads_config(MODEL__MASK_ON=True, MODEL__ROI_MASK_HEAD__NAME="PointRendMaskHead")
    point_rend.add_pointrend_config(cfg)
    mask_head, point_head = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.POINT_HEAD
    mask_head.POOLER_TYPE = ""  # it has its own
    mask_head.POOLER_RESOLUTION = 8
    mask_head.POINT_HEAD_ON = True
    mask_head.NUM_FC = point_head.NUM_FC = 1
    mask_head.CONV_DIM, mask_head.FC_DIM, point_head.FC_DIM = 8, 16, 16
    point_head.NUM_CLASSES = NUM_CLASSES
    cfg.merge_from_list(options)
    return cfg


@pytest.mark.parametrize("name", ["OHEMROIHeads", "OHEMPointRendROIHeads"])
def test_its_masks_are_trained_on_mined_rois(name):
    heads = build_heads(make_cfg("MODEL.ROI_HEADS.NAME", name))
    given = mask_inputs(heads)
    features, proposals, targets = make_inputs()
    for targets_per_image in targets:
        targets_per_image.gt_masks = BitMasks(torch.ones(len(targets_per_image), *IMAGE_SIZE))
    kept, losses, _ = train_step(heads, features, proposals, targets)

    assert losses["loss_mask"] > 0 and losses["loss_mask_point"] > 0
    boxes = [x.proposal_boxes.tensor[x.gt_classes < NUM_CLASSES].tolist() for x in kept]
    assert [x.proposal_boxes.tensor.tolist() for x in given] == boxes
    assert sum(len(x) for x in given) > 0
