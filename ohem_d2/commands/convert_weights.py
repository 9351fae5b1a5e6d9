"""
Convert the weights of an image classifier to a checkpoint for MODEL.WEIGHTS of a detector. It takes
the weights of torchvision's ResNets and of all models of build_torchvision_backbone, all with or
without FPN, and the .caffemodel of VGG16 and VGG_CNN_M_1024.
"""

import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from ..engine import InputError, load_config
from ..utils import atomic_file
from .command_line import exit_on_error, make_parser

# The input that the classifiers were trained on.
INPUTS: dict[str, dict[str, object]] = {
    "torchvision": {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    },
    "Caffe": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    },
}

# Substitutions that turn a name in torchvision into the end of a name in detectron2, in order.
TORCHVISION_NAMES = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{i}\.", f"res{i + 1}.") for i in range(1, 5)),
    (r"^(res\d\.\d+\.)bn(\d)\.", r"\1conv\2.norm."),
    (r"^(res\d\.\d+\.)downsample\.0\.", r"\1shortcut."),
    (r"^(res\d\.\d+\.)downsample\.1\.", r"\1shortcut.norm."),
    # torchvision's DenseNet weights have older names than its code.
    (r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),
]
# Likewise for VGG (layers 0 and 3) and AlexNet (1 and 4).
FC_NAMES = [(r"^classifier\.[01]\.", "fc6."), (r"^classifier\.[34]\.", "fc7.")]

# Layers of VGG16 and VGG_CNN_M_1024: the name in Caffe and in detectron2.
CAFFE_LAYERS = {
    "conv1_1": "features.0",
    "conv1_2": "features.2",
    "conv2_1": "features.5",
    "conv2_2": "features.7",
    "conv3_1": "features.10",
    "conv3_2": "features.12",
    "conv3_3": "features.14",
    "conv4_1": "features.17",
    "conv4_2": "features.19",
    "conv4_3": "features.21",
    "conv5_1": "features.24",
    "conv5_2": "features.26",
    "conv5_3": "features.28",
    **{f"conv{i}": f"features.conv{i}" for i in range(1, 6)},
    "fc6": "fc6",
    "fc7": "fc7",
    "fc8": "fc8",  # the class scores
}


def read_torchvision(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # other bytes may raise anything
        reason = f"{type(e).__name__}: {e}".splitlines()[0]
        raise InputError(f"PyTorch cannot load weights from {path}. {reason}") from e
    if not (
        isinstance(weights, dict)
        and weights
        and all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items())
    ):
        raise InputError(f"{path} is not a dict of tensors, such as a model's state_dict().")
    return weights


def read_caffe(path: Path) -> dict[str, Tensor]:
    """
    Returns:
        dict[str, Tensor]: weights and biases ("conv1_1.weight", ...) of the layers in CAFFE_LAYERS
        that the file has.
    """
    try:
        from cv2 import error
        from cv2.dnn import readNetFromCaffe
    except ImportError as e:
        raise InputError(f'Reading {path} needs OpenCV 4: pip install "opencv-python<5"') from e
    # OpenCV matches a file's blobs to a network's layers by name alone. The layers of this network
    # are identities, and other layers of the file do not matter.
    network = 'input: "data"' + "".join(
        f'layer {{ name: "{name}" type: "Identity" bottom: "data" top: "{name}" }}'
        for name in CAFFE_LAYERS
    )
    try:
        net = readNetFromCaffe(
            np.frombuffer(network.encode(), np.uint8), np.fromfile(path, np.uint8)
        )
    except error as e:
        raise InputError(f"OpenCV cannot read {path} as a .caffemodel: {e}") from e
    weights = {}
    for name in CAFFE_LAYERS:
        blobs = [torch.tensor(x) for x in net.getLayer(name).blobs]
        if len(blobs) == 2:
            weight, bias = blobs
            if name.startswith("fc"):
                weight = weight.reshape(weight.shape[-2:])  # (1, 1, C', C) in older files
            weights[f"{name}.weight"] = weight
            weights[f"{name}.bias"] = bias.flatten()
    if not weights:
        raise InputError(f"{path} has no layer of VGG16 or VGG_CNN_M_1024.")
    return weights


def detectron2_names(names: Collection[str], source: str) -> dict[str, str]:
    """
    Args:
        names (Collection[str]): names of all tensors of a classifier.
        source (str): "torchvision" or "Caffe".

    Returns:
        dict[str, str]: for each name, the end of the name in detectron2, such as
        "res2.0.conv1.weight". Names of tensors that detectors lack do not change.
    """
    if source == "Caffe":
        return {x: re.sub(r"^\w+", lambda layer: CAFFE_LAYERS[layer[0]], x) for x in names}
    has_fc6 = "classifier.6.weight" in names
    ends = {}
    for name in names:
        end = name
        for pattern, replacement in TORCHVISION_NAMES + (FC_NAMES if has_fc6 else []):
            end = re.sub(pattern, replacement, end)
        ends[name] = end
    return ends


def match(
    weights: dict[str, Tensor], ends: dict[str, str], model: dict[str, Tensor]
) -> dict[str, str]:
    """
    Args:
        weights (dict[str, Tensor]): the classifier's.
        ends (dict[str, str]): from :func:`detectron2_names`.
        model (dict[str, Tensor]): the detector's.

    Returns:
        dict[str, str]: for each matched name in the detector, the name in the classifier.

    Raises:
        InputError: if a tensor has another shape in the detector.
    """
    matched = {}
    for name, tensor in weights.items():
        # The prefix depends on the detector: backbone, bottom-up network of FPN, ROI heads (C4's
        # res5), each box head of a cascade.
        for place in [x for x in model if x.endswith(f".{ends[name]}")]:
            if tensor.shape != model[place].shape:
                raise InputError(
                    f"{name} has shape {tuple(tensor.shape)}, but {place} of the config's model "
                    f"{tuple(model[place].shape)}. Does the config have the same network?"
                )
            matched[place] = name
    return matched


def check_config(cfg: CfgNode, required: dict[str, object]) -> None:
    """
    Raises:
        InputError: if the config's input differs from what the weights were trained on.
    """
    options = []
    for key, value in required.items():
        actual = cfg
        for part in key.split("."):
            actual = actual[part]
        if (list(actual) if isinstance(value, list) else actual) != value:
            options += [key, str(value)]
    if options:
        raise InputError(
            "The config's input differs from what the weights were trained on. Add to this command "
            f"and to the training command or config: {shlex.join(options)}"
        )


def convert(
    config_file: Path,
    weights_file: Path,
    output: Path,
    other_input: bool = False,
    opts: Sequence[str] = (),
) -> None:
    """
    Args: those of the command line.

    Raises:
        InputError: if the input cannot be used.
    """
    if not weights_file.is_file():
        raise InputError(f"{weights_file} is not a file.")
    if output.suffix != ".pth" or not output.parent.is_dir():
        raise InputError(f"{output} must be a .pth in an existing folder.")
    if output.resolve() == weights_file.resolve():
        raise InputError(f"{output} is the input, and would be overwritten.")
    cfg = load_config(str(config_file), opts)
    cfg.MODEL.DEVICE = "cpu"
    source = "Caffe" if weights_file.suffix == ".caffemodel" else "torchvision"
    weights = (read_caffe if source == "Caffe" else read_torchvision)(weights_file)
    try:
        model = build_model(cfg).state_dict()
    except (KeyError, ValueError, AssertionError) as e:
        raise InputError(f"The model of {config_file} cannot be built: {e}") from e

    ends = detectron2_names(weights, source)
    matched = match(weights, ends, model)
    if not matched:
        raise InputError(
            f"None of the {len(weights)} tensors of {weights_file} is in the config's model. It "
            f"has {next(iter(model))}, ..., but no {next(iter(ends.values()))}, ..."
        )
    required = {} if other_input else dict(INPUTS[source])
    if "layer1.0.conv3.weight" in weights:  # a bottleneck
        required["MODEL.RESNETS.STRIDE_IN_1X1"] = False
    check_config(cfg, required)

    left = [x for x in weights if x not in matched.values()]
    random = [x for x in model if x not in matched]
    print("Used:", *(f"{name} -> {place}" for place, name in matched.items()), sep="\n  ")
    print("Not used:", *(f"{x}: the model has no {ends[x]}" for x in left), sep="\n  ")
    print("Not initialized in the model:", *random, sep="\n  ")
    checkpoint = {
        "model": {place: weights[name] for place, name in matched.items()},
        "__author__": f"convert_weights.py from {weights_file.name}",
    }
    # Given a path, torch.save() hides the system's error.
    with atomic_file(output) as unfinished, open(unfinished, "wb") as file:
        torch.save(checkpoint, file)
    print(
        f"{output}: {len(matched)} tensors used, {len(left)} not used, {len(random)} of the "
        "model not initialized"
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", type=Path, required=True, help="the detector's")
    parser.add_argument("weights", type=Path, help="a .caffemodel or a torchvision state_dict")
    parser.add_argument("output", type=Path, help="checkpoint to write, a .pth")
    parser.add_argument(
        "--other-input",
        action="store_true",
        help="the classifier was trained on the input that the config describes in INPUT.FORMAT, "
        "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD, not on the usual one",
    )
    parser.add_argument("opts", nargs="*", help="config options, such as INPUT.FORMAT RGB")
    args = parser.parse_intermixed_args()
    with exit_on_error():
        convert(args.config_file, args.weights, args.output, args.other_input, args.opts)
