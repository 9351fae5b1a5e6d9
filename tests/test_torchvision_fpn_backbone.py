import pytest
import torch
import torchvision
from conftest import randomized
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, build_backbone, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ohem_d2 import OHEMROIHeads, add_ohem_config

pytestmark = pytest.mark.slow

# Stages of stride 4 or more: the index after the last layer, and the stride.
STAGES = {
    "vgg16": {"stage3": (16, 4), "stage4": (23, 8), "stage5": (30, 16)},
    "mobilenet_v2": {"stage2": (4, 4), "stage3": (7, 8), "stage4": (14, 16), "stage5": (19, 32)},
    "efficientnet_b0": {"stage2": (3, 4), "stage3": (4, 8), "stage4": (6, 16), "stage5": (9, 32)},
}
classifiers = pytest.mark.parametrize("name", STAGES)


def config(name, freeze_at=0, in_features=(), **options):
    """
    Args:
        options: keys of MODEL with "__" for ".", such as TORCHVISION__NORM="BN".
    """
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.TORCHVISION.NAME = name
    cfg.MODEL.FPN.IN_FEATURES = list(in_features)
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


@classifiers
@torch.no_grad()
def test_levels(name):
    fpn = build_backbone(config(name)).eval()
    assert fpn.in_features == tuple(STAGES[name])
    strides = [stride for _, stride in STAGES[name].values()]
    strides.append(2 * strides[-1])
    levels = {4: "p2", 8: "p3", 16: "p4", 32: "p5", 64: "p6"}
    assert fpn.output_shape() == {
        levels[stride]: ShapeSpec(channels=8, stride=stride) for stride in strides
    }
    assert fpn.size_divisibility == strides[-2]
    outputs = fpn(torch.rand(2, 3, 64, 128))
    assert {k: x.shape for k, x in outputs.items()} == {
        levels[stride]: (2, 8, 64 // stride, 128 // stride) for stride in strides
    }
    last, subsampled = list(outputs.values())[-2:]
    assert torch.equal(subsampled, last[:, :, ::2, ::2])


@classifiers
@torch.no_grad()
def test_stages_are_torchvisions(name):
    torch.manual_seed(0)
    features = randomized(torchvision.models.get_model(name, weights=None)).features
    fpn = build_backbone(config(name)).eval()
    weights = {f"bottom_up.features.{k}": v for k, v in features.state_dict().items()}
    missing, unexpected = fpn.load_state_dict(weights, strict=False)
    assert all(k.startswith(("fpn_lateral", "fpn_output")) for k in missing)
    assert all(k.endswith("num_batches_tracked") for k in unexpected)

    image = torch.randn(1, 3, 64, 96)
    outputs = fpn.bottom_up(image)
    assert list(outputs) == list(STAGES[name])
    for stage, (end, _) in STAGES[name].items():
        expected = features[:end](image)
        torch.testing.assert_close(
            outputs[stage], expected, rtol=1e-4, atol=1e-5 * expected.std().item()
        )


@torch.no_grad()
def test_fpn_is_detectron2s():
    options = {"FPN__OUT_CHANNELS": 6, "FPN__NORM": "BN", "FPN__FUSE_TYPE": "avg"}
    stages = ["stage3", "stage4", "stage5"]
    fpn = build_backbone(config("mobilenet_v2", in_features=stages, **options)).eval()
    randomized(fpn)
    expected = FPN(
        fpn.bottom_up, stages, 6, norm="BN", top_block=LastLevelMaxPool(), fuse_type="avg"
    ).eval()
    expected.load_state_dict(fpn.state_dict())
    image = torch.randn(1, 3, 64, 96)
    outputs = fpn(image)
    assert list(outputs) == ["p3", "p4", "p5", "p6"]
    for level, x in expected(image).items():
        torch.testing.assert_close(outputs[level], x, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@classifiers
def test_all_parameters_are_used(name, norm):
    # The last stage is not: it must not be in the model.
    stages = list(STAGES[name])[:-1]
    fpn = build_backbone(config(name, in_features=stages, TORCHVISION__NORM=norm)).train()
    sum(x.sum() for x in fpn(torch.rand(2, 3, 64, 64)).values()).backward()
    assert all(p.requires_grad and p.grad is not None for p in fpn.parameters())


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_freezing(norm):
    torch.manual_seed(0)
    fpn = build_backbone(config("mobilenet_v2", freeze_at=2, TORCHVISION__NORM=norm)).train()
    sum(x.sum() for x in fpn(torch.rand(2, 3, 64, 64)).values()).backward()
    # Strides 2 and 4 end before layer 4.
    for i, layer in enumerate(fpn.bottom_up.features):
        assert all((p.grad is None) == (i < 4) for p in layer.parameters())
        norms = [x for x in layer.modules() if "BatchNorm" in type(x).__name__]
        frozen = norm == "FrozenBN" or i < 4
        assert norms and all(isinstance(x, FrozenBatchNorm2d) == frozen for x in norms)
    for name, p in fpn.named_parameters():
        assert name.startswith("bottom_up") or p.grad is not None


@pytest.mark.parametrize(
    "name, options, message",
    [
        # detectron2's Base-RCNN-FPN.yaml has res2 to res5.
        (
            "mobilenet_v2",
            {"in_features": ["res2", "res3"]},
            r"MODEL.FPN.IN_FEATURES has res2. The stages of mobilenet_v2 are stage1 \(stride 2\), "
            r"stage2 \(stride 4\).*\[\] takes all of stride 4 or more",
        ),
        (
            "mobilenet_v2",
            {"in_features": ["stage2", "stage4"]},
            r"MODEL.FPN.IN_FEATURES is \['stage2', 'stage4'\], with strides \[4, 16\]. Each",
        ),
        ("mobilenet_v2", {"in_features": ["stage3", "stage2"]}, r"with strides \[8, 4\]"),
        ("mobilenet_v2", {"in_features": ["stage3", "stage3"]}, r"with strides \[8, 8\]"),
        (
            "squeezenet1_1",
            {},
            "MODEL.TORCHVISION.NAME is squeezenet1_1, .*stage2, of stride 4, makes 55 columns of "
            "224 instead of 56",
        ),
        ("alexnet", {}, "MODEL.TORCHVISION.NAME is alexnet, .*stage1"),
        ("resnet18", {}, "MODEL.TORCHVISION.NAME is resnet18"),
        ("mobilenet_v2", {"TORCHVISION__NORM": "GN"}, "MODEL.TORCHVISION.NORM is 'GN'"),
        # The stages that FPN uses count: the fifth is not in the model.
        (
            "mobilenet_v2",
            {"in_features": ["stage2", "stage3"], "freeze_at": 4},
            "MODEL.BACKBONE.FREEZE_AT is 4.*from 0 to 3",
        ),
    ],
)
def test_invalid_configs(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(name, **options))


@torch.no_grad()
def test_one_stage_needs_no_padding():
    """
    FPN reduces its channels, and has nothing to add it to. SqueezeNet's maps, without padding, are
    smaller: of 256 pixels 127 after the first convolution, then 63, 31 and 15 after pooling.
    """
    fpn = build_backbone(config("squeezenet1_1", in_features=["stage4"])).eval()
    outputs = fpn(torch.rand(1, 3, 256, 256))
    assert {k: x.shape for k, x in outputs.items()} == {"p4": (1, 8, 15, 15), "p5": (1, 8, 8, 8)}


def detector(name, num_levels):
    """
    Faster R-CNN with OHEM. The RPN has one level more than the heads.
    """
    levels = [f"p{i + 2}" for i in range(num_levels)]
    cfg = config(
        name,
        freeze_at=1,
        META_ARCHITECTURE="GeneralizedRCNN",
        ANCHOR_GENERATOR__SIZES=[[8 * 2**i] for i in range(num_levels)],
        RPN__IN_FEATURES=levels,
        RPN__POST_NMS_TOPK_TRAIN=50,
        ROI_HEADS__NAME="OHEMROIHeads",
        ROI_HEADS__IN_FEATURES=levels[:-1],
        ROI_HEADS__NUM_CLASSES=3,
        ROI_HEADS__BATCH_SIZE_PER_IMAGE=8,
        ROI_BOX_HEAD__NAME="FastRCNNConvFCHead",
        ROI_BOX_HEAD__NUM_FC=1,
        ROI_BOX_HEAD__FC_DIM=16,
        ROI_BOX_HEAD__POOLER_RESOLUTION=4,
        OHEM__WARMUP_ITERS=0,
    )
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("name, num_levels", [("mobilenet_v2", 5), ("vgg16", 4)])
def test_a_detector_trains_and_detects(name, num_levels):
    model = detector(name, num_levels).train()
    assert isinstance(model.roi_heads, OHEMROIHeads)
    height, width = 50, 70
    targets = Instances(
        (height, width),
        gt_boxes=Boxes(torch.tensor([[5.0, 5, 30, 30], [20, 10, 60, 45]])),
        gt_classes=torch.tensor([0, 2]),
    )
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    with EventStorage() as storage:
        losses = model([{"image": image, "instances": targets}])
        assert storage.latest()["ohem/num_kept"][0] == 8
    assert all(x.isfinite() for x in losses.values())
    sum(losses.values()).backward()
    for parameter, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, parameter
    assert any(not p.requires_grad for p in model.parameters())

    model.eval()
    for size in [(height, width), (5, 9)]:  # the second is smaller than the stride
        with torch.no_grad():
            (output,) = model([{"image": image[:, : size[0], : size[1]]}])
        assert output["instances"].image_size == size
