import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch.nn import functional as F

from ohem_d2 import add_ohem_config
from ohem_d2.modeling import TorchvisionBackbone
from ohem_d2.modeling.backbone import vgg_cnn_m_features
from ohem_d2.modeling.backbone.vgg_m import LocalResponseNorm


def build(freeze_at):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_vgg_cnn_m_1024_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    return build_backbone(cfg)


def norm_by_hand(x):
    """
    Section 3.3 of Krizhevsky et al. 2012. Caffe divides alpha by the number of channels summed:
    x_c / (2 + 5e-4 / 5 * sum of the squares from c - 2 to c + 2) ^ 0.75.
    """
    out = np.empty_like(x)
    for c in range(x.shape[0]):
        squares = sum(x[i] ** 2 for i in range(c - 2, c + 3) if 0 <= i < x.shape[0])
        out[c] = x[c] / (2 + 5e-4 / 5 * squares) ** 0.75
    return out


def pool_by_hand(x):
    """
    Maximum over 3x3 windows with stride 2. Caffe rounds their number up: the last may stick out.
    """
    height, width = (math.ceil((size - 3) / 2) + 1 for size in x.shape[1:])
    out = np.empty((x.shape[0], height, width))
    for i in range(height):
        for j in range(width):
            out[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
    return out


@pytest.mark.parametrize("size", [(70, 101), (64, 64), (33, 47)])
@torch.no_grad()
def test_by_hand(size):
    torch.manual_seed(0)
    features = vgg_cnn_m_features().double()
    image = 60 * torch.randn(1, 3, *size, dtype=torch.float64)

    def conv(name, x, **options):
        layer = getattr(features, name)
        return F.conv2d(torch.as_tensor(x)[None], layer.weight, layer.bias, **options).relu()[0]

    x = pool_by_hand(norm_by_hand(conv("conv1", image[0], stride=2).numpy()))
    x = pool_by_hand(norm_by_hand(conv("conv2", x, stride=2, padding=1).numpy()))
    for name in ("conv3", "conv4", "conv5"):
        x = conv(name, x, padding=1)
    # The norm is computed in float32.
    torch.testing.assert_close(features(image)[0], x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        TorchvisionBackbone(features.float())(image.float())["stage3"][0].double(),
        x,
        rtol=1e-3,
        atol=1e-3,
    )


def test_norm_in_half_precision():
    # 300^2 overflows float16. The squares of five such channels sum to 450,000:
    # 300 / (2 + 1e-4 * 450,000)^0.75 = 300 / 47^0.75 = 16.7
    norm = LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    x = norm(torch.full((1, 5, 1, 1), 300.0, dtype=torch.float16))
    assert x.dtype == torch.float16
    assert x[0, 2].item() == pytest.approx(300 / 47**0.75, rel=1e-3)


def test_backbone():
    backbone = build(0)
    assert backbone.output_shape() == {"stage3": ShapeSpec(channels=512, stride=16)}
    assert backbone._out_feature_strides == {"stage1": 2, "stage2": 8, "stage3": 16}
    assert {name: tuple(p.shape) for name, p in backbone.named_parameters() if p.dim() > 1} == {
        "features.conv1.weight": (96, 3, 7, 7),
        "features.conv2.weight": (256, 96, 5, 5),
        "features.conv3.weight": (512, 256, 3, 3),
        "features.conv4.weight": (512, 512, 3, 3),
        "features.conv5.weight": (512, 512, 3, 3),
    }
    with torch.no_grad():
        for height, width in [(1, 1), (20, 200)]:
            assert backbone(torch.rand(1, 3, height, width))["stage3"].isfinite().all()


@pytest.mark.parametrize("freeze_at", range(3))
def test_freeze(freeze_at):
    frozen = {
        name.split(".")[1] for name, p in build(freeze_at).named_parameters() if not p.requires_grad
    }
    assert frozen == {"conv1", "conv2"} - {f"conv{i + 1}" for i in range(freeze_at, 2)}


def test_there_is_no_fourth_stage():
    with pytest.raises(ValueError, match="MODEL.BACKBONE.FREEZE_AT is 4.*from 0 to 3"):
        build(4)
