"""
Measure what multiple scales, iterative box regression and voting cost at test time: the time of a
detector in each row of the paper's table, and the time of merging the boxes of all scales beside
the forward pass of one.

    python -m benchmarks.test_time --weights output/demo/faster_rcnn_R_18_ohem/model_final.pth

Times are medians over several repeats. What is compared takes turns, so that other load on the
machine affects all of it: what counts are ratios. On a busy CPU, OMP_NUM_THREADS=1 is fairer, as
PyTorch's threads wait for each other.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple
from unittest import mock

import torch
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling import GeneralizedRCNN
from tqdm import tqdm

from benchmarks.measure import make_table, measure
from benchmarks.provenance import ROOT
from ohem_d2.checkpoint import load_model
from ohem_d2.data import build_test_loader
from ohem_d2.engine import InputError, check_inputs, fall_back_to_cpu, load_config
from ohem_d2.modeling import (
    GeneralizedRCNNWithTTA,
    ImageTooLargeError,
    build_test_time_model,
)
from ohem_d2.modeling.test_time.options import with_test_time_options
from ohem_d2.utils import atomic_file

# Multi-scale test; iterative box regression and voting.
ROWS = ((False, False), (True, False), (False, True), (True, True))


def load_images(cfg: CfgNode, count: int) -> Iterator[tuple[list[dict], ...]]:
    """
    Returns:
        Iterator[tuple]: for each of the first images, the input of the model of each row.
    """
    loaders = [
        build_test_loader(with_test_time_options(cfg, *row), cfg.DATASETS.TEST[0]) for row in ROWS
    ]
    return islice(zip(*loaders, strict=True), count)


# What each row of the paper's table costs.


def time_rows(cfg: CfgNode, model: GeneralizedRCNN, num_images: int, repeats: int) -> str:
    """
    Returns:
        str: a table of milliseconds per image.
    """
    models = [build_test_time_model(with_test_time_options(cfg, *row), model) for row in ROWS]
    times = []
    for inputs in tqdm(load_images(cfg, num_images), "rows", num_images, unit="image"):
        calls = {
            row: lambda model=model, x=x: model(x)
            for row, model, x in zip(ROWS, models, inputs, strict=True)
        }
        times.append(measure(calls, repeats))
    # Multi-scale training makes no difference at test time.
    rows = [(False, *row, mean(x[row] for x in times)) for row in ROWS]
    rows.append((True, *rows[-1][1:]))
    return make_table(
        [
            {
                "multi-scale train": "yes" if train else "-",
                "multi-scale test": "yes" if test else "-",
                "iterative box regression and voting": "yes" if voting else "-",
                "ms/image": f"{ms:.0f}",
                "ratio": f"{ms / rows[0][-1]:.2f}",
            }
            for train, test, voting, ms in rows
        ],
        num_left=3,
    )


# What merging costs, beside the forward pass of one scale.


class Merging(NamedTuple):
    """
    Milliseconds per image.
    """

    num_boxes: float
    forward: float  # of one scale
    mapping: float  # boxes from the scales' coordinates to the image's
    merging: float  # NMS and voting
    nms: float  # alone


def time_merging(
    model: GeneralizedRCNN,
    tta: GeneralizedRCNNWithTTA,
    plain_input: dict[str, Any],
    tta_input: dict[str, Any],
    repeats: int,
) -> Merging:
    """
    Args:
        plain_input, tta_input (dict): of the same image.
    """
    inputs, transforms = tta._get_augmented_inputs(tta_input)
    predictions = tta._batch_inference(inputs)
    # Everything that follows the forward passes, without them.
    with mock.patch.object(tta, "_batch_inference", return_value=predictions):
        boxes = tta._get_augmented_boxes(inputs, transforms)
        image_size = tta_input["height"], tta_input["width"]
        times = measure(
            {
                "forward": lambda: model([plain_input]),
                "mapping": lambda: tta._get_augmented_boxes(inputs, transforms),
                # A copy, because it clips them in place.
                "merging": lambda: tta._merge_detections(boxes[0].clone(), *boxes[1:], image_size),
                "nms": lambda: batched_nms(*boxes, tta.merge.nms_thresh),
            },
            repeats,
        )
    return Merging(len(boxes[0]), **times)


def time_merging_of_images(
    cfg: CfgNode, model: GeneralizedRCNN, num_images: int, repeats: int
) -> Merging:
    """
    Returns:
        Merging: the mean over the first images of the test dataset.
    """
    tta = build_test_time_model(with_test_time_options(cfg, True, True), model)
    images = tqdm(load_images(cfg, num_images), "merging", num_images, unit="image")
    results = [time_merging(model, tta, x[0][0], x[-1][0], repeats) for x in images]
    return Merging(*map(mean, zip(*results, strict=True)))


def merging_table(x: Merging) -> str:
    return make_table(
        [
            {
                "boxes": f"{x.num_boxes:,.0f}",
                "one scale, ms": f"{x.forward:.1f}",
                "mapping, ms": f"{x.mapping:.2f}",
                "NMS and voting, ms": f"{x.merging:.2f}",
                "NMS alone, ms": f"{x.nms:.2f}",
                "mapping, NMS and voting / one scale": f"{(x.mapping + x.merging) / x.forward:.1%}",
            }
        ],
        num_left=0,
    )


def run(args: argparse.Namespace) -> str:
    """
    Returns:
        str: all tables, in Markdown.

    Raises:
        ImageTooLargeError, InputError: for what cannot be used.
    """
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    device = cfg.MODEL.DEVICE
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    cfg.MODEL.WEIGHTS = args.weights
    cfg.DATALOADER.NUM_WORKERS = 0  # workers would take the model's cores
    check_inputs(with_test_time_options(cfg, True, True), eval_only=True)
    model = load_model(cfg)

    num_images = min(args.images, len(build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    rows = time_rows(cfg, model, num_images, args.repeats)
    merging = time_merging_of_images(cfg, model, num_images, args.repeats)

    views = len(cfg.TEST.AUG.MIN_SIZES) * (1 + cfg.TEST.AUG.FLIP)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    return f"""\
- Device: {name}, {torch.get_num_threads()} threads
- PyTorch {torch.__version__}, detectron2 {detectron2_version}
- Config: {" ".join([args.config_file, *args.opts])}
- Weights: {args.weights}
- Medians of {args.repeats} repeats

What each row of the paper's table costs, the mean over the first {num_images} images of \
{cfg.DATASETS.TEST[0]}. The last two rows differ only in training. One scale has a shorter side of \
{cfg.INPUT.MIN_SIZE_TEST} pixels, multiple scales have \
{", ".join(map(str, cfg.TEST.AUG.MIN_SIZES))}, {views} images with flip.

{rows}

What follows the forward passes of the last row, beside a forward pass of one scale without flip:

{merging_table(merging)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        default=str(ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml"),
        help="the weights' config (default: the demo's)",
    )
    parser.add_argument(
        "--weights", required=True, help="of a trained detector: a random one has no boxes to merge"
    )
    parser.add_argument("--images", type=int, default=20, help="of the test dataset (default: 20)")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--output", type=Path, help="a file for the tables (default: none)")
    parser.add_argument(
        "opts", nargs="*", help="options of the config, such as TEST.AUG.FLIP False"
    )
    args = parser.parse_args()
    if min(args.images, args.repeats) < 1:
        sys.exit("test_time: --images and --repeats must be 1 or more.")
    try:
        with torch.no_grad():
            text = run(args)
    except (ImageTooLargeError, InputError) as e:
        sys.exit(f"test_time: {e}")
    print(text, end="")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.output) as path:
            path.write_text(text)


if __name__ == "__main__":
    main()
