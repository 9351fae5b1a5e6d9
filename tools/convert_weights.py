#!/usr/bin/env python3
"""
Convert the weights of an image classifier into a checkpoint of the detector that a config
describes, as MODEL.WEIGHTS takes it: torchvision's ResNets and whatever build_torchvision_backbone
takes, and the .caffemodel of VGG16 and VGG_CNN_M_1024.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from ohem_d2.engine import InputError, load_config
from ohem_d2.utils import atomic_file

# The images that the classifiers were trained on.
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

# How a name in torchvision becomes the end of a name in detectron2, one after the other.
TORCHVISION_NAMES = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{i}\.", f"res{i + 1}.") for i in range(1, 5)),
    (r"^(res\d\.\d+\.)bn(\d)\.", r"\1conv\2.norm."),
    (r"^(res\d\.\d+\.)downsample\.0\.", r"\1shortcut."),
    (r"^(res\d\.\d+\.)downsample\.1\.", r"\1shortcut.norm."),
    # torchvision's files of DenseNet are older than its names.
    (r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),
]
# Likewise, of VGG (layers 0 and 3) and AlexNet (1 and 4).
FC_NAMES = [(r"^classifier\.[01]\.", "fc6."), (r"^classifier\.[34]\.", "fc7.")]

# The layers of VGG16 and VGG_CNN_M_1024 in Caffe, and the same in detectron2.
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


class ConvertError(ValueError):
    """
    The user's input cannot be used. The message names it and the remedy.
    """


def read_torchvision(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # of many kinds, for what may be in a file
        reason = f"{type(e).__name__}: {e}".splitlines()[0]
        raise ConvertError(f"{path} has no weights that PyTorch can load. {reason}") from e
    if not (
        isinstance(weights, dict)
        and weights
        and all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items())
    ):
        raise ConvertError(f"{path} is not a dict of tensors, as state_dict() of a model is.")
    return weights


def read_caffe(path: Path) -> dict[str, Tensor]:
    """
    Returns:
        dict[str, Tensor]: the weights and biases ("conv1_1.weight", ...) of those of CAFFE_LAYERS
        that are in the file.
    """
    try:
        from cv2 import error
        from cv2.dnn import readNetFromCaffe
    except ImportError as e:
        raise ConvertError(
            f'{path} can be read by OpenCV 4 alone: pip install "opencv-python<5"'
        ) from e
    # OpenCV looks up the blobs of a network's layers by their names, whatever the layers are. So
    # the layers of this network are the identity, and other layers of the file do not matter.
    network = 'input: "data"' + "".join(
        f'layer {{ name: "{name}" type: "Identity" bottom: "data" top: "{name}" }}'
        for name in CAFFE_LAYERS
    )
    try:
        net = readNetFromCaffe(
            np.frombuffer(network.encode(), np.uint8), np.fromfile(path, np.uint8)
        )
    except error as e:
        raise ConvertError(f"{path} is not a .caffemodel that OpenCV can read: {e}") from e
    weights = {}
    for name in CAFFE_LAYERS:
        blobs = [torch.tensor(x) for x in net.getLayer(name).blobs]
        if len(blobs) == 2:
            weight, bias = blobs
            if name.startswith("fc"):
                weight = weight.reshape(weight.shape[-2:])  # of (1, 1, C', C) in older files
            weights[f"{name}.weight"] = weight
            weights[f"{name}.bias"] = bias.flatten()
    if not weights:
        raise ConvertError(f"{path} has no layer of VGG16 or VGG_CNN_M_1024.")
    return weights


def detectron2_names(names: Collection[str], source: str) -> dict[str, str]:
    """
    Args:
        names (Collection[str]): of all tensors of a classifier.
        source (str): "torchvision" or "Caffe".

    Returns:
        dict[str, str]: for each the end of its name in detectron2, such as "res2.0.conv1.weight".
        It is the same name for what detectors do not have.
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
        weights (dict[str, Tensor]): of the classifier.
        ends (dict[str, str]): from :func:`detectron2_names`.
        model (dict[str, Tensor]): of the detector.

    Returns:
        dict[str, str]: names in the detector, and for each the name in the classifier.

    Raises:
        ConvertError: if a tensor has another shape in the detector.
    """
    matched = {}
    for name, tensor in weights.items():
        # The prefix is that of the backbone, with FPN or without, of the ROI heads, which have the
        # last stage of C4, ... A cascade has several box heads.
        for place in [x for x in model if x.endswith(f".{ends[name]}")]:
            if tensor.shape != model[place].shape:
                raise ConvertError(
                    f"{name} is of shape {tuple(tensor.shape)}, and {place} of the config's model "
                    f"of {tuple(model[place].shape)}. Has the config the same network?"
                )
            matched[place] = name
    return matched


def check_config(cfg: CfgNode, required: dict[str, object]) -> None:
    """
    Raises:
        ConvertError: if the config has other values than those that belong to the weights.
    """
    options = []
    for key, value in required.items():
        actual = cfg
        for part in key.split("."):
            actual = actual[part]
        if (list(actual) if isinstance(value, list) else actual) != value:
            options += [key, str(value)]
    if options:
        raise ConvertError(
            "The weights were trained otherwise than the config would use them. Add to this "
            f"command, and to the config or the command of training: {shlex.join(options)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", type=Path, required=True, help="of the detector")
    parser.add_argument("weights", type=Path, help="a .caffemodel, or a state_dict of torchvision")
    parser.add_argument("output", type=Path, help="the checkpoint to write, a .pth")
    parser.add_argument(
        "--other-input",
        action="store_true",
        help="the classifier was not trained on what is usual for its source, but on images as the "
        "config has them in INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD",
    )
    parser.add_argument("opts", nargs="*", help="options of the config, such as INPUT.FORMAT RGB")
    args = parser.parse_intermixed_args()

    if not args.weights.is_file():
        raise ConvertError(f"{args.weights} is not a file.")
    if args.output.suffix != ".pth" or not args.output.parent.is_dir():
        raise ConvertError(f"{args.output} has to be a .pth in a folder that exists.")
    if args.output.resolve() == args.weights.resolve():
        raise ConvertError(f"{args.output} would be overwritten.")
    cfg = load_config(str(args.config_file), args.opts)
    cfg.MODEL.DEVICE = "cpu"
    source = "Caffe" if args.weights.suffix == ".caffemodel" else "torchvision"
    weights = (read_caffe if source == "Caffe" else read_torchvision)(args.weights)
    try:
        model = build_model(cfg).state_dict()
    except (KeyError, ValueError, AssertionError) as e:
        raise ConvertError(f"The model of {args.config_file} cannot be built: {e}") from e

    ends = detectron2_names(weights, source)
    matched = match(weights, ends, model)
    if not matched:
        raise ConvertError(
            f"None of the {len(weights)} tensors of {args.weights} is in the config's model, which "
            f"has {next(iter(model))}, ..., and no {next(iter(ends.values()))}, ..."
        )
    required = {} if args.other_input else dict(INPUTS[source])
    if "layer1.0.conv3.weight" in weights:  # a bottleneck
        required["MODEL.RESNETS.STRIDE_IN_1X1"] = False
    check_config(cfg, required)

    left = [x for x in weights if x not in matched.values()]
    random = [x for x in model if x not in matched]
    print("Used:", *(f"{name} -> {place}" for place, name in matched.items()), sep="\n  ")
    print("Left out:", *(f"{x}: the model has no {ends[x]}" for x in left), sep="\n  ")
    print("Still random in the model:", *random, sep="\n  ")
    checkpoint = {
        "model": {place: weights[name] for place, name in matched.items()},
        "__author__": f"convert_weights.py, of {args.weights.name}",
    }
    with atomic_file(args.output) as unfinished:
        torch.save(checkpoint, unfinished)
    print(
        f"{args.output}: {len(matched)} tensors used, {len(left)} left out, {len(random)} of the "
        "model still random"
    )


if __name__ == "__main__":
    try:
        main()
    except (ConvertError, InputError) as e:
        sys.exit(f"{Path(__file__).name}: {e}")
