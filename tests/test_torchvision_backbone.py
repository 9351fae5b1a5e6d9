import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import randomized
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import FPN
from torch import nn

from ohem_d2 import add_ohem_config
from ohem_d2.modeling import TorchvisionBackbone

pytestmark = pytest.mark.slow

WEIGHTS = Path(__file__).parent.parent.parent / "shared/data/weights/squeezenet1_0_imagenet_bgr.pth"


def config(name, freeze_at=0, out_features=(), norm="FrozenBN"):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.TORCHVISION.NAME = name
    cfg.MODEL.TORCHVISION.OUT_FEATURES = list(out_features)
    cfg.MODEL.TORCHVISION.NORM = norm
    return cfg


def conv(channels, out_channels, stride=1):
    return nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)


def small_features():
    """
    Layers at strides 1, 2 and 4, with batch norms as a child and within a block.
    """
    return nn.Sequential(
        conv(3, 4),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Sequential(conv(4, 6), nn.BatchNorm2d(6)),
        conv(6, 8, stride=2),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
    )


@pytest.fixture(scope="module")
def vgg16():
    torch.manual_seed(0)
    return torchvision.models.vgg16(weights=None).features.eval()


@torch.no_grad()
def test_vgg16(vgg16):
    stages = ["stage1", "stage2", "stage3", "stage4", "stage5"]
    backbone = TorchvisionBackbone(vgg16, stages).eval()
    assert backbone.output_shape() == {
        name: ShapeSpec(channels=channels, stride=stride)
        for name, channels, stride in zip(
            stages, [64, 128, 256, 512, 512], [1, 2, 4, 8, 16], strict=True
        )
    }
    image = torch.rand(2, 3, 70, 100)
    outputs = backbone(image)
    assert list(outputs) == stages
    # Before each pooling: conv1, ..., conv5.
    for name, end in zip(stages, [4, 9, 16, 23, 30], strict=True):
        torch.testing.assert_close(outputs[name], vgg16[:end](image), rtol=0, atol=0)
    assert outputs["stage5"].shape == (2, 512, 70 // 16, 100 // 16)

    (last,) = TorchvisionBackbone(vgg16)(image).items()
    assert last[0] == "stage5"
    torch.testing.assert_close(last[1], vgg16[:-1](image), rtol=0, atol=0)


@torch.no_grad()
def test_squeezenet():
    # Convolution and pooling without padding, rounded up: 224 / size is not the stride.
    features = torchvision.models.squeezenet1_0(weights=None).features
    backbone = TorchvisionBackbone(features)
    assert backbone._out_feature_strides == {"stage1": 2, "stage2": 4, "stage3": 8, "stage4": 16}
    assert backbone.output_shape() == {"stage4": ShapeSpec(channels=512, stride=16)}
    image = torch.rand(1, 3, 96, 128)
    torch.testing.assert_close(backbone(image)["stage4"], features(image), rtol=0, atol=0)


def test_names_are_torchvisions(vgg16):
    named = nn.Sequential(OrderedDict(conv0=conv(3, 4), norm0=nn.BatchNorm2d(4)))  # DenseNet
    for features in [vgg16, named]:
        expected = [f"features.{name}" for name in features.state_dict()]
        assert list(TorchvisionBackbone(features).state_dict()) == expected


def test_layers_after_the_last_output_are_dropped():
    backbone = TorchvisionBackbone(small_features(), ["stage2"])
    assert [type(x) for x in backbone.features] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.MaxPool2d,
        nn.Sequential,
    ]
    assert backbone.output_shape() == {"stage2": ShapeSpec(channels=6, stride=2)}
    backbone(torch.rand(1, 3, 8, 8))["stage2"].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(
    "name, strides, channels",
    [
        ("alexnet", [4, 8, 16], 256),
        ("densenet121", [2, 4, 8, 16, 32], 1024),
        ("efficientnet_b0", [2, 4, 8, 16, 32], 1280),
        ("mobilenet_v2", [2, 4, 8, 16, 32], 1280),
        ("squeezenet1_1", [2, 4, 8, 16], 512),
        ("vgg16_bn", [1, 2, 4, 8, 16], 512),
    ],
)
def test_families(name, strides, channels):
    backbone = build_backbone(config(name)).eval()
    assert list(backbone._out_feature_strides.values()) == strides
    (last,) = backbone.output_shape().values()
    assert last == ShapeSpec(channels=channels, stride=strides[-1])
    with torch.no_grad():
        # The second image is smaller than the stride.
        for height, width in [(96, 64), (5, 100)]:
            (features,) = backbone(torch.rand(1, 3, height, width)).values()
            assert features.shape[1] == channels and features.isfinite().all()


def test_measuring_leaves_the_layers_alone():
    features = small_features().train()
    before = copy.deepcopy(features.state_dict())
    TorchvisionBackbone(features)
    assert all(m.training for m in features.modules())
    for name, value in features.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_images_of_other_channels():
    features = nn.Sequential(conv(1, 4, stride=2))
    assert TorchvisionBackbone(features, in_channels=1)(torch.rand(1, 1, 8, 8))["stage1"].shape == (
        1,
        4,
        4,
        4,
    )


@pytest.mark.parametrize("freeze_at, num_frozen", [(0, 0), (1, 2), (2, 4), (3, 6)])
def test_freeze(freeze_at, num_frozen):
    backbone = TorchvisionBackbone(small_features(), freeze_at=freeze_at).train()
    layers = list(backbone.features)
    for i, layer in enumerate(layers):
        assert all(p.requires_grad == (i >= num_frozen) for p in layer.parameters())
    norms = [layers[1], layers[3][1], layers[5]]
    assert [isinstance(x, FrozenBatchNorm2d) for x in norms] == [freeze_at > i for i in range(3)]

    running_means = [x.running_mean.clone() for x in norms]
    features = backbone(torch.rand(2, 3, 16, 16))["stage3"]
    assert features.requires_grad == (freeze_at < 3)
    if freeze_at < 3:
        features.square().sum().backward()
    assert [p.grad is not None for p in backbone.parameters()] == [
        p.requires_grad for p in backbone.parameters()
    ]
    for i, (norm, before) in enumerate(zip(norms, running_means, strict=True)):
        assert torch.equal(norm.running_mean, before) == (freeze_at > i)


def test_freezing_conv1_and_conv2_of_vgg16(vgg16):
    backbone = TorchvisionBackbone(copy.deepcopy(vgg16), freeze_at=2)
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == [f"features.{i}.{x}" for i in (0, 2, 5, 7) for x in ("weight", "bias")]


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
# The last two have another eps, 1e-3.
@pytest.mark.parametrize(
    "name",
    ["mobilenet_v2", "efficientnet_b0", "vgg16_bn", "mobilenet_v3_small", "efficientnet_v2_s"],
)
@torch.no_grad()
def test_batch_norms_give_what_torchvisions_do(name, norm):
    torch.manual_seed(0)
    features = randomized(torchvision.models.get_model(name, weights=None)).features
    backbone = build_backbone(config(name, norm=norm)).eval()
    missing, unexpected = backbone.load_state_dict(
        {f"features.{k}": v for k, v in features.state_dict().items()}, strict=False
    )
    assert not missing
    # detectron2 0.5's frozen batch norms have no count of batches.
    assert all(k.endswith("num_batches_tracked") for k in unexpected)

    image = torch.randn(2, 3, 96, 64)
    expected = (features[:-1] if name == "vgg16_bn" else features)(image)
    (actual,) = backbone(image).values()
    assert expected.std() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.std().item())


def test_frozen_batch_norms_do_not_train():
    torch.manual_seed(0)
    backbone = build_backbone(config("mobilenet_v2")).train()
    assert sum(isinstance(x, FrozenBatchNorm2d) for x in backbone.modules()) == 52
    before = copy.deepcopy(dict(backbone.named_buffers()))
    backbone(torch.rand(2, 3, 64, 64))["stage5"].sum().backward()
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name])
    # What is left are the convolutions.
    assert all(p.dim() == 4 and p.grad is not None for p in backbone.parameters())


def test_batch_norms_train_except_in_frozen_stages():
    torch.manual_seed(0)
    backbone = build_backbone(config("mobilenet_v2", norm="BN", freeze_at=2)).train()
    backbone(torch.rand(2, 3, 64, 64))["stage5"].sum().backward()
    # Strides 2 and 4 end before layer 4.
    for i, layer in enumerate(backbone.features):
        for x in layer.modules():
            if "BatchNorm" in type(x).__name__:
                assert isinstance(x, FrozenBatchNorm2d) == (i < 4)
                assert x.running_mean.any() == (i >= 4)
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())


def test_feature_pyramid():
    backbone = TorchvisionBackbone(small_features(), ["stage2", "stage3"])
    fpn = FPN(backbone, ["stage2", "stage3"], out_channels=5)
    assert fpn.size_divisibility == 4
    assert {k: v.shape for k, v in fpn(torch.rand(1, 3, 16, 24)).items()} == {
        "p1": (1, 5, 8, 12),
        "p2": (1, 5, 4, 6),
    }


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs weights in ../shared/data")
@torch.no_grad()
def test_real_weights(tmp_path):
    weights = torch.load(WEIGHTS, weights_only=True)
    expected = torchvision.models.squeezenet1_0(weights=None)
    expected.load_state_dict(weights)
    image = 50 * torch.randn(1, 3, 64, 64)

    backbone = build_backbone(config("squeezenet1_0"))
    backbone.load_state_dict({k: v for k, v in weights.items() if k.startswith("features.")})
    torch.testing.assert_close(backbone(image)["stage4"], expected.features(image))

    # detectron2's heuristic matches the names within a model too.
    file = tmp_path / "weights.pth"
    torch.save({"model": weights, "matching_heuristics": True}, file)
    model = nn.ModuleDict({"backbone": build_backbone(config("squeezenet1_0"))})
    DetectionCheckpointer(model).load(str(file))
    torch.testing.assert_close(model["backbone"](image)["stage4"], expected.features(image))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("squeezenet1", {}, "MODEL.TORCHVISION.NAME is 'squeezenet1'.*Did you mean squeezenet1_"),
        # Building it would download the weights of its backbone.
        ("fasterrcnn_resnet50_fpn", {}, "not an image classifier of torchvision"),
        ("resnet18", {}, "MODEL.TORCHVISION.NAME is resnet18.*build_resnet_backbone"),
        (
            "squeezenet1_1",
            {"out_features": ["stage1", "res4"]},
            "OUT_FEATURES has res4. The stages of this backbone are stage1, stage2, stage3, stage4",
        ),
        ("squeezenet1_1", {"norm": "SyncBN"}, "NORM is 'SyncBN'. It must be FrozenBN or BN"),
        ("squeezenet1_1", {"freeze_at": 5}, "MODEL.BACKBONE.FREEZE_AT is 5.*from 0 to 4"),
        ("squeezenet1_1", {"freeze_at": -1}, "MODEL.BACKBONE.FREEZE_AT is -1.*from 0 to 4"),
    ],
)
def test_invalid_configs(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(name, **options))


@pytest.mark.parametrize(
    "features, message",
    [
        (nn.Sequential(nn.MaxPool2d(2)), "layers with parameters"),
        (nn.Sequential(), "layers with parameters"),
        (nn.Sequential(conv(3, 4), nn.Flatten()), r"Layer 1 \(Flatten\) does not"),
        (torchvision.models.swin_t(weights=None).features, r"Layer 0 \(Sequential\) does not"),
    ],
)
def test_layers_that_do_not_make_a_backbone(features, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionBackbone(features)
