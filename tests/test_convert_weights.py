import errno
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from caffe_files import caffe_net, random_arrays, vgg_m_layers
from conftest import randomized
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from ohem_d2 import add_ohem_config
from ohem_d2.commands import convert_weights
from ohem_d2.commands.convert_weights import CAFFE_LAYERS, read_caffe
from ohem_d2.engine import InputError

pytestmark = pytest.mark.slow

MOBILENET = Path(__file__).parent.parent.parent / "shared/data/weights/mobilenet_v2_features.pth"

reads_caffe = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromCaffe"), reason="OpenCV 5 cannot read Caffe's files"
)

TORCHVISION_INPUT = [
    *("INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"),
    *("MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
]
CAFFE_INPUT = ["MODEL.PIXEL_MEAN", "[102.9801, 115.9465, 122.7717]"]

VGG = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE:
    NAME: "{backbone}"
  RPN:
    IN_FEATURES: ["{feature}"]
  ROI_HEADS:
    NAME: "StandardROIHeads"
    IN_FEATURES: ["{feature}"]
    NUM_CLASSES: 3
  ROI_BOX_HEAD:
    NAME: "VGGBoxHead"
    FC_DIMS: [8, 6]
    POOLER_RESOLUTION: {resolution}
"""
VGG16 = VGG.format(backbone="build_torchvision_backbone", feature="stage5", resolution=7)
VGG_M = VGG.format(backbone="build_vgg_cnn_m_1024_backbone", feature="stage3", resolution=6)
SMALL = VGG16.replace("stage5", "stage4") + '  TORCHVISION:\n    NAME: "squeezenet1_1"\n'
MOBILENET_FPN = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE:
    NAME: "build_torchvision_fpn_backbone"
  TORCHVISION:
    NAME: "mobilenet_v2"
  FPN:
    OUT_CHANNELS: 8
  RPN:
    IN_FEATURES: ["p4"]
  ROI_HEADS:
    NAME: "StandardROIHeads"
    IN_FEATURES: ["p4"]
  ROI_BOX_HEAD:
    NAME: "FastRCNNConvFCHead"
    NUM_FC: 1
    FC_DIM: 4
"""
RESNET18 = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  RESNETS:
    DEPTH: 18
    RES2_OUT_CHANNELS: 64
    OUT_FEATURES: ["res5"]
  RPN:
    IN_FEATURES: ["res5"]
  ROI_HEADS:
    NAME: "StandardROIHeads"
    IN_FEATURES: ["res5"]
  ROI_BOX_HEAD:
    NAME: "FastRCNNConvFCHead"
    NUM_FC: 1
    FC_DIM: 4
"""


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """
    Run the tool and load the checkpoint into the config's model. The config and the weights are
    given as a file or its content.
    """

    def convert(config, weights, *options):
        config_file = config
        if not isinstance(config, Path):
            config_file = tmp_path / "config.yaml"
            config_file.write_text(config)
        if not isinstance(weights, Path):
            torch.save(weights, tmp_path / "weights.pth")
            weights = tmp_path / "weights.pth"
        output = tmp_path / "output.pth"
        arguments = ["--config-file", config_file, weights, output, *options]
        monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, arguments)])
        convert_weights.main()

        cfg = get_cfg()
        add_ohem_config(cfg)
        cfg.merge_from_file(str(config_file))
        cfg.merge_from_list([x for x in options if not x.startswith("--")])
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg).eval()
        checkpoint = torch.load(output, weights_only=True)
        assert checkpoint.keys() == {"model", "__author__"}
        assert checkpoint["model"].keys() <= model.state_dict().keys()
        DetectionCheckpointer(model).load(str(output))
        return model

    return convert


def resnet_features(resnet, image):
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
    return resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))


@torch.no_grad()
def test_resnet18(convert, capsys):
    resnet = randomized(torchvision.models.resnet18(weights=None))
    model = convert(RESNET18, resnet.state_dict(), *TORCHVISION_INPUT)
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(model.backbone(image)["res5"], resnet_features(resnet, image))

    lines = capsys.readouterr().out.splitlines()
    assert "  layer2.0.downsample.1.bias -> backbone.res3.0.shortcut.norm.bias" in lines
    assert "  fc.weight: the model has no fc.weight" in lines
    assert (
        "  bn1.num_batches_tracked: the model has no stem.conv1.norm.num_batches_tracked" in lines
    )
    assert "  roi_heads.box_head.fc1.weight" in lines
    assert "stem" not in "".join(lines[lines.index("Not initialized in the model:") :])
    # 20 convolutions with four tensors of a norm each. Not used: num_batches_tracked and fc.
    assert "100 tensors used, 22 not used" in lines[-1]


@pytest.mark.parametrize("name", ["R_50_FPN", "R_50_C4"])
@torch.no_grad()
def test_resnet50(convert, name):
    resnet = randomized(torchvision.models.resnet50(weights=None))
    file = model_zoo.get_config_file(f"COCO-Detection/faster_rcnn_{name}_1x.yaml")
    options = [*TORCHVISION_INPUT, "MODEL.RESNETS.STRIDE_IN_1X1", "False"]
    model = convert(Path(file), resnet.state_dict(), *options)
    image = torch.randn(1, 3, 64, 96)
    if name == "R_50_FPN":
        features = model.backbone.bottom_up(image)["res5"]
    else:
        features = model.roi_heads.res5(model.backbone(image)["res4"])
    torch.testing.assert_close(features, resnet_features(resnet, image), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_vgg16(convert, capsys):
    vgg = torchvision.models.vgg16(weights=None)
    # Fewer features, to be fast.
    vgg.classifier[0] = nn.Linear(512 * 7 * 7, 8)
    vgg.classifier[3] = nn.Linear(8, 6)
    vgg.classifier[6] = nn.Linear(6, 10)
    randomized(vgg)
    model = convert(VGG16, vgg.state_dict(), *TORCHVISION_INPUT)

    # From the image on, with detectron2's values from 0 to 255.
    image = torch.randint(256, (3, 224, 224), dtype=torch.uint8)
    transforms = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(x)[:, None, None] for x in (transforms.mean, transforms.std))
    expected = vgg.features(((image / 255 - mean) / std)[None])
    features = model.backbone(model.preprocess_image([{"image": image}]).tensor)["stage5"]
    torch.testing.assert_close(
        nn.functional.max_pool2d(features, 2), expected, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        model.roi_heads.box_head(expected), vgg.classifier[:6](expected.flatten(1))
    )
    assert "instances" in model([{"image": image}])[0]

    lines = capsys.readouterr().out.splitlines()
    assert "  features.28.weight -> backbone.features.28.weight" in lines
    assert "  classifier.3.bias -> roi_heads.box_head.fc7.bias" in lines
    assert "  classifier.6.bias: the model has no classifier.6.bias" in lines
    assert "30 tensors used, 2 not used, 10 of the model not initialized" in lines[-1]


@torch.no_grad()
def test_densenet_of_old_names(convert):
    densenet = randomized(torchvision.models.densenet121(weights=None))
    old = {
        k.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): v
        for k, v in densenet.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    options = ["MODEL.TORCHVISION.NAME", "densenet121", "MODEL.BACKBONE.FREEZE_AT", "0"]
    model = convert(VGG16, old, *TORCHVISION_INPUT, *options)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.backbone(image)["stage5"], densenet.features(image))


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
@torch.no_grad()
def test_other_classifiers(convert, name, capsys):
    classifier = randomized(getattr(torchvision.models, name)(weights=None))
    last = {"alexnet": "stage3", "squeezenet1_1": "stage4"}[name]
    options = ["MODEL.TORCHVISION.NAME", name, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "6"]
    if name == "alexnet":
        options += ["MODEL.ROI_BOX_HEAD.FC_DIMS", "[4096, 4096]"]
    model = convert(
        VGG16.replace("stage5", last), classifier.state_dict(), *TORCHVISION_INPUT, *options
    )
    image = torch.randn(1, 3, 96, 96)
    expected = classifier.features[:12] if name == "alexnet" else classifier.features
    torch.testing.assert_close(model.backbone(image)[last], expected(image))
    if name == "alexnet":
        rois = torch.randn(2, 256, 6, 6)
        torch.testing.assert_close(
            model.roi_heads.box_head(rois), classifier.classifier[:6](rois.flatten(1))
        )
    else:
        assert (
            "  classifier.1.weight: the model has no classifier.1.weight" in capsys.readouterr().out
        )


def assert_fpn_has(classifier, model):
    """
    From the image on, with detectron2's values from 0 to 255.
    """
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    transforms = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(x)[:, None, None] for x in (transforms.mean, transforms.std))
    expected = classifier.features(((image / 255 - mean) / std)[None])
    x = model.preprocess_image([{"image": image}]).tensor
    actual = model.backbone.bottom_up(x)["stage5"]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize("with_classifier", [True, False])
@torch.no_grad()
def test_fpn(convert, with_classifier, capsys):
    mobilenet = randomized(torchvision.models.mobilenet_v2(weights=None))
    weights = mobilenet.state_dict()
    if not with_classifier:
        weights = {k: v for k, v in weights.items() if k.startswith("features.")}
    assert_fpn_has(mobilenet, convert(MOBILENET_FPN, weights, *TORCHVISION_INPUT))

    lines = capsys.readouterr().out.splitlines()
    assert "  features.0.1.bias -> backbone.bottom_up.features.0.1.bias" in lines
    random = "".join(lines[lines.index("Not initialized in the model:") :])
    assert "fpn_lateral2.weight" in random and "bottom_up" not in random
    # All but the classifier, and num_batches_tracked, which detectron2 0.5's batch norms lack.
    left = [x for x in lines if "the model has no" in x and "num_batches_tracked" not in x]
    assert len(left) == 2 * with_classifier


@pytest.mark.skipif(not MOBILENET.exists(), reason="needs weights in ../shared/data")
@torch.no_grad()
def test_fpn_with_real_weights(convert):
    mobilenet = torchvision.models.mobilenet_v2(weights=None).eval()
    weights = torch.load(MOBILENET, weights_only=True)
    assert {k.split(".")[0] for k in weights} == {"features"}
    mobilenet.load_state_dict(weights, strict=False)
    assert_fpn_has(mobilenet, convert(MOBILENET_FPN, MOBILENET, *TORCHVISION_INPUT))


@torch.no_grad()
def test_heads_of_a_cascade_all_get_fc6(convert):
    vgg = torchvision.models.squeezenet1_1(weights=None).features.state_dict()
    weights = {f"features.{k}": v for k, v in vgg.items()}
    weights |= {
        "classifier.0.weight": torch.randn(8, 512 * 49),
        "classifier.6.weight": torch.ones(1),
    }
    options = [
        "MODEL.ROI_HEADS.NAME",
        "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    ]
    model = convert(SMALL, weights, *TORCHVISION_INPUT, *options, "True")
    assert len(model.roi_heads.box_head) == 3
    for head in model.roi_heads.box_head:
        assert torch.equal(head.fc6.weight, weights["classifier.0.weight"])


# Caffe's files: messages of protocol buffers, encoded by hand. See caffe.proto for the numbers.


@reads_caffe
@pytest.mark.parametrize("old", [True, False])
def test_caffe_is_read_exactly(old, tmp_path):
    layers = {
        "conv1_1": random_arrays((4, 3, 3, 3), (4,)),
        "conv5": random_arrays((5, 4, 1, 7), (5,)),
        "fc6": random_arrays((6, 30), (6,)),
        "fc8": random_arrays((1, 6), (1,)),
        "rpn_conv/3x3": random_arrays((2, 2, 3, 3), (2,)),
    }
    file = tmp_path / "net.caffemodel"
    file.write_bytes(caffe_net(layers, old))
    weights = read_caffe(file)
    del layers["rpn_conv/3x3"]
    assert list(weights) == [f"{name}.{x}" for name in layers for x in ("weight", "bias")]
    for name, arrays in layers.items():
        for kind, array in zip(("weight", "bias"), arrays, strict=True):
            assert np.array_equal(weights[f"{name}.{kind}"].numpy(), array)


def test_vgg16s_convolutions_are_torchvisions_in_order():
    features = torchvision.models.vgg16(weights=None).features
    convolutions = [f"features.{i}" for i, x in enumerate(features) if isinstance(x, nn.Conv2d)]
    assert [v for k, v in CAFFE_LAYERS.items() if "_" in k] == convolutions
    assert [k for k in CAFFE_LAYERS if "_" in k] == [
        f"conv{i}_{j + 1}" for i, n in enumerate([2, 2, 3, 3, 3], start=1) for j in range(n)
    ]


def vgg_m_network():
    """
    The convolutional layers for OpenCV, with the parameters that they have in the authors' file.
    """
    text, bottom = 'input: "data"\n', "data"

    def add(name, kind, parameters=""):
        nonlocal text, bottom
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" '
        text += f"{parameters} }}\n"
        bottom = name

    def add_convolution(i, parameters):
        add(f"conv{i}", "Convolution", f"convolution_param {{ {parameters} }}")
        add(f"relu{i}", "ReLU")

    def add_norm_and_pool(i):
        # OpenCV takes k as 1, and it is 2: (2 + alpha / 5 * sum) = 2 * (1 + alpha / 2 / 5 * sum).
        add(f"norm{i}", "LRN", "lrn_param { local_size: 5 alpha: 0.00025 beta: 0.75 }")
        add(f"scale{i}", "Power", f"power_param {{ scale: {2**-0.75} }}")
        add(f"pool{i}", "Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")

    add_convolution(1, "num_output: 96 kernel_size: 7 stride: 2")
    add_norm_and_pool(1)
    add_convolution(2, "num_output: 256 pad: 1 kernel_size: 5 stride: 2")
    add_norm_and_pool(2)
    for i in (3, 4, 5):
        add_convolution(i, "num_output: 512 pad: 1 kernel_size: 3")
    return text


@reads_caffe
@torch.no_grad()
def test_vgg_m_is_the_network_that_opencv_runs(convert, tmp_path, capsys):
    layers = vgg_m_layers(8, 6)
    file = tmp_path / "vgg_m.caffemodel"
    file.write_bytes(caffe_net(layers))
    model = convert(VGG_M, file, *CAFFE_INPUT)
    assert "14 tensors used, 0 not used, 10 of the model not initialized" in capsys.readouterr().out
    for name in ("fc6", "fc7"):
        assert np.array_equal(getattr(model.roi_heads.box_head, name).weight, layers[name][0])

    image = torch.randint(256, (3, 160, 203), dtype=torch.uint8)
    net = cv2.dnn.readNetFromCaffe(
        np.frombuffer(vgg_m_network().encode(), np.uint8), np.fromfile(file, np.uint8)
    )
    mean = np.array([102.9801, 115.9465, 122.7717]).reshape(3, 1, 1)
    net.setInput((image.numpy() - mean).astype("f4")[None])
    expected = torch.tensor(net.forward("relu5"))
    features = model.backbone(model.preprocess_image([{"image": image}]).tensor)["stage3"]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_opencv_5(monkeypatch, tmp_path):
    monkeypatch.delattr(cv2.dnn, "readNetFromCaffe", raising=False)
    with pytest.raises(InputError, match=r'needs OpenCV 4: pip install "opencv-python<5"'):
        read_caffe(tmp_path / "net.caffemodel")


@reads_caffe
@pytest.mark.parametrize(
    "content, message",
    [
        (b"no such thing", "OpenCV cannot read .*net.caffemodel as a .caffemodel"),
        (b"", "has no layer of VGG16 or VGG_CNN_M_1024"),
        (caffe_net({"conv": random_arrays((4, 3, 3, 3), (4,))}), "has no layer of VGG16"),
    ],
)
def test_invalid_caffemodels(content, message, tmp_path):
    file = tmp_path / "net.caffemodel"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_caffe(file)


# Errors


@pytest.fixture(scope="module")
def squeezenet():
    return torchvision.models.squeezenet1_1(weights=None).state_dict()


def test_the_input_must_be_the_classifiers(convert, squeezenet, tmp_path):
    # detectron2's default is BGR, with other means and no deviations.
    with pytest.raises(SystemExit) as error:
        convert(SMALL, squeezenet)
    assert str(error.value).endswith(
        "INPUT.FORMAT RGB MODEL.PIXEL_MEAN '[123.675, 116.28, 103.53]' "
        "MODEL.PIXEL_STD '[58.395, 57.12, 57.375]'"
    )
    with pytest.raises(SystemExit) as error:
        convert(SMALL, squeezenet, *TORCHVISION_INPUT[:2], *TORCHVISION_INPUT[4:])
    assert str(error.value).endswith("config: MODEL.PIXEL_MEAN '[123.675, 116.28, 103.53]'")
    assert not (tmp_path / "output.pth").exists()
    convert(SMALL, squeezenet, *TORCHVISION_INPUT)
    convert(SMALL, squeezenet, "--other-input")


def test_the_stride_of_a_bottleneck(convert):
    resnet = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3])
    config = RESNET18.replace("DEPTH: 18", "DEPTH: 50").replace(": 64", ": 256")
    with pytest.raises(SystemExit, match="config: MODEL.RESNETS.STRIDE_IN_1X1 False$"):
        convert(config, resnet.state_dict(), *TORCHVISION_INPUT)


def test_another_shape(convert, squeezenet):
    with pytest.raises(
        SystemExit,
        match=r"features.0.weight has shape \(64, 3, 3, 3\), but backbone.features.0.weight of "
        r"the config's model \(96, 3, 7, 7\)",
    ):
        convert(SMALL, squeezenet, "MODEL.TORCHVISION.NAME", "squeezenet1_0")


def test_nothing_matches(convert):
    with pytest.raises(
        SystemExit,
        match="None of the 2 tensors of .*weights.pth is in the config's model. It has "
        "backbone.features.0.weight, ..., but no model.a, ...",
    ):
        convert(SMALL, {"model.a": torch.ones(1), "model.b": torch.ones(1)})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "PyTorch cannot load weights from .*pth. EOFError"),
        (b"no such thing", "PyTorch cannot load weights from"),
        (nn.Linear(1, 1), "PyTorch cannot load weights from"),  # a pickled model
        ([torch.ones(1)], "is not a dict of tensors"),
        ({"features.0.weight": 1}, "is not a dict of tensors"),
        ({}, "is not a dict of tensors"),
    ],
)
def test_invalid_weights(convert, content, message, tmp_path):
    file = tmp_path / "file.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(SystemExit, match=message):
        convert(SMALL, file)


@pytest.mark.parametrize(
    "config, options, message",
    [
        ("MODEL: [", [], "config.yaml cannot be read: while parsing"),
        ("A: 1", [], "config.yaml cannot be read: .*Non-existent config key: A"),
        (SMALL, ["A.B", "1"], "config.yaml cannot be read: .*Non-existent key: A.B"),
        (SMALL, ["INPUT.FORMAT"], "config.yaml cannot be read: .*odd length"),
        (SMALL, ["MODEL.BACKBONE.NAME", "none"], "cannot be built: .*none"),
        (SMALL, ["MODEL.TORCHVISION.NAME", "vgg61"], "cannot be built: MODEL.TORCHVISION.NAME"),
    ],
)
def test_invalid_configs(convert, squeezenet, config, options, message):
    with pytest.raises(SystemExit, match=message):
        convert(config, squeezenet, *options)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as error:
        convert_weights.main()
    return error.value.code


def test_as_a_command(monkeypatch, tmp_path, squeezenet):
    config, weights = tmp_path / "config.yaml", tmp_path / "weights.pth"
    arguments = ["--config-file", config, weights]
    output = tmp_path / "output.pth"
    expected = f"convert_weights.py: {weights} is not a file."
    assert run(monkeypatch, *arguments, output) == expected
    torch.save(squeezenet, weights)
    assert "config.yaml', which does not exist" in run(monkeypatch, *arguments, output)
    config.write_text(SMALL)
    for name in ("output.pkl", "folder/output.pth"):
        assert "must be a .pth in an existing folder" in run(
            monkeypatch, *arguments, tmp_path / name
        )
    assert "would be overwritten" in run(monkeypatch, *arguments, weights)
    # Options may come last.
    assert "cannot be read" in run(monkeypatch, weights, output, *arguments[:2], "A.B", "1")


def test_a_failure_to_write_leaves_what_was_there(convert, squeezenet, tmp_path, monkeypatch):
    convert(SMALL, squeezenet, *TORCHVISION_INPUT)
    before = (tmp_path / "output.pth").read_bytes()
    save = torch.save

    def fail(checkpoint, file):
        save(checkpoint, file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert_weights.torch, "save", fail)
    with pytest.raises(SystemExit, match="output.pth cannot be read or written: No space"):
        convert(SMALL, tmp_path / "weights.pth", *TORCHVISION_INPUT)
    assert (tmp_path / "output.pth").read_bytes() == before
    assert not list(tmp_path.glob("*.unfinished"))
