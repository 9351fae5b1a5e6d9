import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_box_head
from torch import nn

from ohem_d2 import add_ohem_config
from ohem_d2.modeling import VGGBoxHead


def build(input_shape, **options):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.ROI_BOX_HEAD.NAME = "VGGBoxHead"
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.ROI_BOX_HEAD.{key}", value])
    return build_box_head(cfg, input_shape)


@torch.no_grad()
def test_is_the_classifier_of_torchvisions_vgg():
    torch.manual_seed(0)
    # With 32 channels instead of 512.
    vgg = torchvision.models.VGG(nn.Conv2d(3, 32, 3), num_classes=5)
    vgg.classifier[0] = nn.Linear(32 * 7 * 7, 4096)
    vgg.eval()
    head = build(ShapeSpec(channels=32, height=7, width=7)).eval()
    assert head.output_shape == ShapeSpec(channels=4096)
    head.load_state_dict(
        {
            f"{ours}.{x}": vgg.classifier.state_dict()[f"{theirs}.{x}"]
            for ours, theirs in [("fc6", 0), ("fc7", 3)]
            for x in ("weight", "bias")
        }
    )
    rois = torch.randn(6, 32, 7, 7)
    torch.testing.assert_close(head(rois), vgg.classifier[:6](rois.flatten(1)))


def test_dropout():
    torch.manual_seed(0)
    head = build(ShapeSpec(channels=8, height=2, width=3), FC_DIMS=[50, 4000], DROPOUT=0.25)
    assert head.fc6.in_features == 8 * 2 * 3 and head.output_shape.channels == 4000
    with torch.no_grad():
        head.fc7.bias.fill_(100)  # ReLU zeroes nothing
    rois = torch.randn(3, 8, 2, 3)
    head.eval()
    assert (head(rois) > 0).all() and torch.equal(head(rois), head(rois))
    head.train()
    assert (head(rois) == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_fc6_drops_as_well():
    head = VGGBoxHead(ShapeSpec(channels=1, height=1, width=1), fc_dims=[2000], dropout=0.5)
    with torch.no_grad():
        head.fc6.bias.fill_(100)
    assert 800 < (head(torch.ones(1, 1, 1, 1)) == 0).sum() < 1200


def test_no_rois():
    head = build(ShapeSpec(channels=2, height=7, width=7), FC_DIMS=[6, 5])
    features = head(torch.rand(0, 2, 7, 7))
    assert features.shape == (0, 5)
    features.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"FC_DIMS": []}, "MODEL.ROI_BOX_HEAD.FC_DIMS"),
        ({"DROPOUT": 1.0}, "MODEL.ROI_BOX_HEAD.DROPOUT is 1.0. It must be"),
        ({"DROPOUT": -0.1}, "MODEL.ROI_BOX_HEAD.DROPOUT"),
    ],
)
def test_invalid_configs(options, message):
    with pytest.raises(ValueError, match=message):
        build(ShapeSpec(channels=2, height=7, width=7), **options)
