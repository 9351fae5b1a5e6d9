import math

import pytest
import torch
from conftest import FAMILIES, build_heads, heads_config, load_config
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import pairwise_iou
from detectron2.utils.events import EventStorage

from ohem_d2.data.datasets.clutter import CLASS_NAMES, generate_clutter
from ohem_d2.evaluation import build_mean_roi_loss_loader, mean_roi_loss


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    folder = generate_clutter(str(root), 0, {"train": 3, "test": 1})
    register_pascal_voc("mean_roi_loss_train", str(folder), "train", 2012, CLASS_NAMES)
    yield load_config("demo/faster_rcnn_R_18.yaml", "MODEL.DEVICE", "cpu")
    DatasetCatalog.remove("mean_roi_loss_train")
    MetadataCatalog.pop("mean_roi_loss_train")


@torch.no_grad()
def loss_on_all_rois(model, inputs):
    """
    Sum of detectron2's own training loss over all RoIs of an image, and their number.
    """
    heads, targets = model.roi_heads, inputs["instances"]
    images = model.preprocess_image([inputs])
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    (rois,) = add_ground_truth_to_proposals([targets], proposals)
    iou, match = pairwise_iou(targets.gt_boxes, rois.proposal_boxes).max(dim=0)
    rois.gt_classes = torch.where(iou >= 0.5, targets.gt_classes[match], len(CLASS_NAMES))
    rois.gt_boxes = targets.gt_boxes[match]
    x = heads.box_pooler([features[f] for f in heads.box_in_features], [rois.proposal_boxes])
    with EventStorage():
        losses = heads.box_predictor.losses(heads.box_predictor(heads.box_head(x)), [rois])
    return sum(losses.values()).item() * len(rois), len(rois)


@pytest.mark.parametrize("heads", ["StandardROIHeads", "OHEMROIHeads"])
def test_mean_over_all_rois(cfg, heads):
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.NAME = heads
    torch.manual_seed(0)
    model = build_model(cfg).train()
    loader = build_mean_roi_loss_loader(cfg, "mean_roi_loss_train")
    assert len(loader) == 3
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loss = mean_roi_loss(model, loader)

    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.eval()
    sums, counts = zip(*(loss_on_all_rois(model, x) for (x,) in loader), strict=True)
    assert loss == pytest.approx(sum(sums) / sum(counts), rel=1e-5)


def test_no_images(cfg):
    assert math.isnan(mean_roi_loss(build_model(cfg), []))


class OwnLoss(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        return {"loss_cls": 2 * predictions[0].sum()}


def test_what_it_would_get_wrong_is_refused(cfg):
    model = build_model(cfg)
    model.roi_heads.box_predictor.__class__ = OwnLoss
    with pytest.raises(ValueError, match=r"OwnLoss overrides losses\(\)"):
        mean_roi_loss(model, [])

    model = torch.nn.Module()
    model.roi_heads = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Linear is not a StandardROIHeads, Res5ROIHeads or Casc"):
        mean_roi_loss(model, [])

    model.roi_heads = build_heads(heads_config(**FAMILIES["CascadeROIHeads"]))
    with pytest.raises(ValueError, match="for heads with one stage. OHEMCascadeROIHeads has 3"):
        mean_roi_loss(model, [])
