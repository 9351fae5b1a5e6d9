#!/usr/bin/env python3
"""
Measure what multiple scales, iterative box regression and voting cost at test time, in tables:
the time of a detector in each row of the paper's table; whether merging the boxes of all scales
takes less than 5 % of the forward pass of one; and box voting beside NMS and a loop in NumPy.

    python benchmarks/test_time.py --weights output/demo/faster_rcnn_R_18_ohem/model_final.pth

Times are medians of several repeats. What is compared runs in turns, so that whatever else the
machine does hits all alike: it is the ratios that count. On a CPU that does other things, PyTorch's
threads wait for each other: OMP_NUM_THREADS=1 is fairer there.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, Optional
from unittest import mock

import numpy as np
import torch
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from measure import make_table, measure, peak_memory
from torch import Tensor
from tqdm import tqdm

from ohem_d2.checkpoint import load_model
from ohem_d2.data import build_test_loader
from ohem_d2.engine import InputError, check_inputs, fall_back_to_cpu, load_config
from ohem_d2.modeling import (
    GeneralizedRCNNWithTTA,
    ImageTooLargeError,
    build_test_time_model,
)
from ohem_d2.modeling.test_time import box_voting as box_voting_module
from ohem_d2.modeling.test_time.box_voting import box_voting
from ohem_d2.modeling.test_time.build import with_test_time_options
from ohem_d2.utils import atomic_file

ROOT = Path(__file__).resolve().parent.parent
# Multi-scale test; iterative box regression and voting.
ROWS = ((False, False), (True, False), (False, True), (True, True))
# At most this part of a forward pass of one scale may be spent on merging the boxes of all.
MAX_SHARE = 0.05

# A model as heavy as the paper's, on one image of the size that it is tested on.
HEAVY_CONFIG = ROOT / "configs/PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml"
HEAVY_IMAGE = (600, 800)
HEAVY_NUM_PROPOSALS = 2000
HEAVY_NUM_BOXES = (2000, 5000, 10_000)

# Box voting alone.
NUM_BOXES = (1000, 5000, 20_000)
NUM_CLASSES = (1, 20)
TOPK = (100, -1)
NMS_THRESH, IOU_THRESH = 0.3, 0.5  # the paper's


def load_images(cfg: CfgNode, count: int) -> Iterator[tuple[list[dict], ...]]:
    """
    Returns:
        Iterator[tuple]: of each of the first images the input of the model of each row.
    """
    loaders = [
        build_test_loader(with_test_time_options(cfg, *row), cfg.DATASETS.TEST[0]) for row in ROWS
    ]
    return islice(zip(*loaders, strict=True), count)


# What each row of the paper's table costs.


def time_rows(cfg: CfgNode, model: GeneralizedRCNN, num_images: int, repeats: int) -> str:
    """
    Returns:
        str: a table of the milliseconds an image.
    """
    models = [build_test_time_model(with_test_time_options(cfg, *row), model) for row in ROWS]
    times = []
    for inputs in tqdm(load_images(cfg, num_images), "rows", num_images, unit="image"):
        calls = {
            row: lambda model=model, x=x: model(x)
            for row, model, x in zip(ROWS, models, inputs, strict=True)
        }
        times.append(measure(calls, repeats))
    rows = []
    for row in ROWS:
        milliseconds = mean(x[row] for x in times)
        ratio = milliseconds / mean(x[ROWS[0]] for x in times)
        rows.append([False, *row, f"{milliseconds:.0f}", f"{ratio:.2f}"])
    # It differs in training alone.
    rows.append([True, *rows[-1][1:]])
    headers = [
        "multi-scale train",
        "multi-scale test",
        "iterative box regression and voting",
        "ms/image",
        "ratio",
    ]
    cells = [["yes" if x is True else x or "-" for x in row] for row in rows]
    return make_table(headers, cells, num_left=3)


# What merging costs, beside the forward pass of one scale.


class Merging(NamedTuple):
    """
    Milliseconds of an image.
    """

    num_boxes: float
    forward: float  # of one scale, as it is
    mapping: float  # boxes from the scales' coordinates to the image's
    merging: float  # NMS and voting
    nms: float  # alone


def time_merging(
    model: GeneralizedRCNN,
    tta: GeneralizedRCNNWithTTA,
    plain_input: dict[str, Any],
    tta_input: dict[str, Any],
    repeats: int,
    made_boxes: Optional[tuple[Tensor, Tensor, Tensor]] = None,
) -> Merging:
    """
    Args:
        plain_input, tta_input (dict): of the same image.
        made_boxes: boxes, scores and classes, to be merged instead of those that are predicted.
    """
    inputs, transforms = tta._get_augmented_inputs(tta_input)
    if made_boxes is None:
        predictions = tta._batch_inference(inputs)
    else:
        predictions = spread(made_boxes, inputs, transforms)
    # From here on, everything that follows the forward passes, without them.
    with mock.patch.object(tta, "_batch_inference", return_value=predictions):
        boxes = tta._get_augmented_boxes(inputs, transforms)
        image_size = tta_input["height"], tta_input["width"]
        times = measure(
            {
                "forward": lambda: model([plain_input]),
                "mapping": lambda: tta._get_augmented_boxes(inputs, transforms),
                # A copy, as it clips them in place.
                "merging": lambda: tta._merge_detections(boxes[0].clone(), *boxes[1:], image_size),
                "nms": lambda: batched_nms(*boxes, tta.merge.nms_thresh),
            },
            repeats,
        )
    return Merging(len(boxes[0]), **times)


def spread(
    boxes: tuple[Tensor, Tensor, Tensor], inputs: list[dict[str, Any]], transforms: list
) -> list[Instances]:
    """
    Returns:
        list[Instances]: the boxes, an equal part of them as predictions on each of the inputs.
    """
    predictions = []
    for i, (augmented, transform) in enumerate(zip(inputs, transforms, strict=True)):
        part, scores, classes = (x[i :: len(inputs)] for x in boxes)
        mapped = torch.from_numpy(transform.apply_box(part.cpu().numpy())).to(part)
        predictions.append(
            Instances(
                augmented["image"].shape[1:],
                pred_boxes=Boxes(mapped),
                scores=scores,
                pred_classes=classes,
            )
        )
    return predictions


def time_merging_of_images(
    cfg: CfgNode, model: GeneralizedRCNN, num_images: int, repeats: int
) -> Merging:
    """
    Returns:
        Merging: the mean of the first images of the test dataset.
    """
    tta = build_test_time_model(with_test_time_options(cfg, True, True), model)
    images = tqdm(load_images(cfg, num_images), "merging", num_images, unit="image")
    results = [time_merging(model, tta, x[0][0], x[-1][0], repeats) for x in images]
    return Merging(*map(mean, zip(*results, strict=True)))


def time_merging_of_heavy_model(device: str, repeats: int) -> list[Merging]:
    """
    Returns:
        list[Merging]: for each of HEAVY_NUM_BOXES. The model's weights are random, and so it
        predicts nothing of use: it merges boxes that are made.
    """
    cfg = load_config(str(HEAVY_CONFIG))
    cfg.MODEL.DEVICE = device
    model = build_model(cfg).eval()
    tta = build_test_time_model(with_test_time_options(cfg, True, True), model)
    height, width = HEAVY_IMAGE
    proposals, objectness, _ = make_boxes(HEAVY_NUM_PROPOSALS, 1, height, width)
    record = {
        "image": torch.randint(256, (3, height, width), dtype=torch.uint8),
        "height": height,
        "width": width,
        "proposals": Instances(
            HEAVY_IMAGE, proposal_boxes=Boxes(proposals), objectness_logits=objectness
        ),
    }
    results = []
    for count in tqdm(HEAVY_NUM_BOXES, HEAVY_CONFIG.stem, unit="row"):
        made = make_boxes(count, cfg.MODEL.ROI_HEADS.NUM_CLASSES, height, width)
        made = tuple(x.to(device) for x in made)
        results.append(time_merging(model, tta, record, record, repeats, made))
    return results


def merging_table(results: list[tuple[str, Merging]]) -> str:
    rows = []
    for name, x in results:
        share = (x.mapping + x.merging) / x.forward
        rows.append(
            [
                name,
                f"{x.num_boxes:,.0f}",
                f"{x.forward:.1f}",
                f"{x.mapping:.2f}",
                f"{x.merging:.2f}",
                f"{x.nms:.2f}",
                f"{share:.1%}",
                "yes" if share < MAX_SHARE else "NO",
            ]
        )
    headers = [
        "model",
        "boxes",
        "one scale, ms",
        "mapping, ms",
        "NMS and voting, ms",
        "NMS alone, ms",
        "mapping, NMS and voting / one scale",
        f"below {MAX_SHARE:.0%}",
    ]
    return make_table(headers, rows)


# Box voting alone.


def make_boxes(
    count: int, num_classes: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Returns:
        boxes (R, 4), scores (R,) and classes (R,), in clusters as on objects: about 50 on each.
    """
    generator = torch.Generator().manual_seed(0)
    num_objects = max(count // 50, 1)
    size = torch.tensor([width, height])
    centers = size * torch.rand(num_objects, 2, generator=generator)
    classes = torch.randint(num_classes, (num_objects,), generator=generator)
    objects = torch.randint(num_objects, (count,), generator=generator)
    centers = centers[objects] + 8 * torch.randn(count, 2, generator=generator)
    half = 30 * torch.exp(0.2 * torch.randn(count, 2, generator=generator))
    boxes = torch.cat([centers - half, centers + half], dim=1)
    return boxes, torch.rand(count, generator=generator), classes[objects]


def numpy_box_voting(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """
    One kept box at a time, and all boxes of its class at once.

    Returns:
        np.ndarray: the kept boxes after voting.
    """
    voted = boxes[keep]
    for k in np.unique(classes[keep]):
        candidates, weights = boxes[classes == k], scores[classes == k]
        x0, y0, x1, y1 = candidates.T.copy()
        areas = (x1 - x0) * (y1 - y0)
        for i in np.flatnonzero(classes[keep] == k):
            u0, v0, u1, v1 = voted[i]
            width = np.maximum(np.minimum(x1, u1) - np.maximum(x0, u0), 0)
            height = np.maximum(np.minimum(y1, v1) - np.maximum(y0, v0), 0)
            shared = width * height
            voters = shared / (areas + (u1 - u0) * (v1 - v0) - shared) >= IOU_THRESH
            w = weights[voters].astype(np.float64)
            voted[i] = w @ candidates[voters] / w.sum()
    return voted


def time_box_voting(device: str, repeats: int) -> list[list[Any]]:
    """
    Returns:
        list[list[Any]]: rows of a table.
    """
    rows = []
    for count in NUM_BOXES:
        for num_classes in NUM_CLASSES:
            cpu_boxes = make_boxes(count, num_classes, 1000, 1000)
            boxes = [x.to(device) for x in cpu_boxes]
            all_kept = batched_nms(*boxes, NMS_THRESH)
            for topk in TOPK:
                keep = all_kept[:topk] if topk >= 0 else all_kept
                arrays = [x.numpy() for x in (*cpu_boxes, keep.cpu())]

                def vote(boxes=boxes, topk=topk):
                    return box_voting(*boxes, NMS_THRESH, IOU_THRESH, topk=topk)

                # NMS is given.
                with mock.patch.object(box_voting_module, "batched_nms", return_value=all_kept):
                    np.testing.assert_allclose(
                        vote()[0].cpu(), numpy_box_voting(*arrays), atol=1e-3
                    )
                    times = measure(
                        {
                            "voting": vote,
                            "NumPy": lambda arrays=arrays: numpy_box_voting(*arrays),
                            "NMS": lambda boxes=boxes: batched_nms(*boxes, NMS_THRESH),
                        },
                        repeats,
                    )
                    memory = peak_memory(vote, device)
                rows.append(
                    [
                        device,
                        f"{count:,}",
                        num_classes,
                        topk if topk >= 0 else "all",
                        len(keep),
                        *(f"{x:.2f}" for x in times.values()),
                        f"{times['voting'] / times['NumPy']:.2f}",
                        f"{times['voting'] / times['NMS']:.2f}",
                        f"{memory:.1f}",
                    ]
                )
    return rows


def voting_table(repeats: int) -> str:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    headers = [
        "device",
        "boxes",
        "classes",
        "top-k",
        "kept",
        "voting, ms",
        "NumPy, ms",
        "NMS, ms",
        "voting / NumPy",
        "voting / NMS",
        "peak memory of voting, MiB",
    ]
    return make_table(headers, [row for x in devices for row in time_box_voting(x, repeats)])


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
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False  # it is about boxes
    cfg.MODEL.WEIGHTS = args.weights
    cfg.DATALOADER.NUM_WORKERS = 0  # they would take the model's cores
    check_inputs(with_test_time_options(cfg, True, True), eval_only=True)
    model = load_model(cfg)

    config = Path(args.config_file).stem
    num_images = min(args.images, len(build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    rows = time_rows(cfg, model, num_images, args.repeats)
    merging = [(config, time_merging_of_images(cfg, model, num_images, args.repeats))]
    merging += [
        (f"{HEAVY_CONFIG.stem}, boxes are made", x)
        for x in time_merging_of_heavy_model(device, args.repeats)
    ]
    voting = voting_table(args.repeats)

    views = len(cfg.TEST.AUG.MIN_SIZES) * (1 + cfg.TEST.AUG.FLIP)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    return f"""\
- Device: {name}, {torch.get_num_threads()} threads
- PyTorch {torch.__version__}, detectron2 {detectron2_version}
- Config: {" ".join([args.config_file, *args.opts])}
- Weights: {args.weights}
- Medians of {args.repeats} repeats

What each row of the paper's table costs, a mean over the first {num_images} images of \
{cfg.DATASETS.TEST[0]}. The last differs from the one before in training alone. One scale has a \
shorter side of {cfg.INPUT.MIN_SIZE_TEST} pixels, multiple scales have \
{", ".join(map(str, cfg.TEST.AUG.MIN_SIZES))}, {views} images with flip.

{rows}

What follows the forward passes of the last row, beside a forward pass of one scale, without flip. \
{HEAVY_CONFIG.stem} has random weights, an image of {" x ".join(map(str, HEAVY_IMAGE))} pixels \
with {HEAVY_NUM_PROPOSALS:,} proposals, and boxes that are made, in clusters of 50.

{merging_table(merging)}

Box voting alone, its NMS excluded, of boxes that are made, in clusters of 50; a loop in NumPy \
over the boxes that are kept, on the CPU; and that NMS.

{voting}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        default=str(ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml"),
        help="that the weights were trained with, by default the demo's",
    )
    parser.add_argument(
        "--weights", required=True, help="a trained detector's: a random one has no boxes to merge"
    )
    parser.add_argument("--images", type=int, default=20, help="of the test dataset, by default 20")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement, by default 5")
    parser.add_argument("--output", type=Path, help="a file for the tables; by default none")
    parser.add_argument(
        "opts", nargs="*", help="options of the config, such as TEST.AUG.FLIP False"
    )
    args = parser.parse_args()
    if min(args.images, args.repeats) < 1:
        sys.exit("test_time.py: --images and --repeats must be 1 or more.")
    try:
        with torch.no_grad():
            text = run(args)
    except (ImageTooLargeError, InputError) as e:
        sys.exit(f"test_time.py: {e}")
    print(text, end="")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.output) as path:
            path.write_text(text)


if __name__ == "__main__":
    main()
