#!/usr/bin/env python3
"""
Measure the price of OHEM in training: time, operations and peak memory of a step, beside those of
the same model without it; what the parts of the step take; mining by the number of RoIs; and how
many of the RoIs that are kept half precision keeps as well.

    python benchmarks/step_time.py

A step is a forward and a backward pass from no gradients on, without the optimizer, which is the
same for all. Weights, images, objects and proposals are made. The variants of a model run in turns,
so that whatever else the machine does hits all alike: it is the ratios that count, medians and the
range of those of each repeat. The last line of the output says which targets are missed; to miss
one is a result, and no failure.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.measure import measure, peak_memory, synchronize
from benchmarks.provenance import provenance
from benchmarks.step_time.models import (
    HALF,
    MODELS,
    NUM_OBJECTS,
    OHEM,
    Model,
    build_variants,
    make_inputs,
    use_tf32,
)
from benchmarks.step_time.parts import (
    HEADS_PARTS,
    LOSS_AND_SELECTION,
    PARTS,
    PRECISIONS,
    time_parts,
    train_step,
)
from benchmarks.step_time.tables import (
    StepLine,
    monitor_table,
    overlap_table,
    parts_tables,
    step_tables,
    sweep_table,
    targets_table,
)
from ohem_d2.utils import atomic_file

OUTPUT = Path(__file__).resolve().parent.parent / "results/step_time.jsonl"

# The targets that all models share.
MAX_MEMORY_RATIO = 1.05  # the paper has 1.36
MAX_SELECTION_SHARE = 0.02
MIN_LOSS_LAYER_RATIO = 2.0

# RoIs of one image, and how many of them are forwarded at a time (0: all).
SWEEP_ROIS = (500, 1000, 2000, 4000, 8000)
SWEEP_BATCH_SIZES = (0, 500)


def measure_steps(
    name: str,
    model: Model,
    networks: dict[str, GeneralizedRCNN],
    inputs: list[dict],
    precision: str,
    repeats: int,
    device: str,
    bar: tqdm,
) -> list[StepLine]:
    """
    Args:
        networks: see :func:`build_variants`.

    Returns:
        list[StepLine]: for each variant, what its step takes.
    """
    resources = {}
    for variant, network in networks.items():
        resources[variant] = count_resources(network, inputs, precision, device)
        bar.update()

    milliseconds: dict[str, list[float]] = {variant: [] for variant in networks}
    parts: dict[str, list[dict[str, float]]] = {variant: [] for variant in networks}
    for _ in range(repeats):
        for variant, network in networks.items():
            parts[variant].append(time_parts(network, inputs, precision, device))
            if device == "cpu":
                # Nothing runs beside the stopwatch, which changes nothing then: one step is both.
                milliseconds[variant].append(sum(parts[variant][-1].values()))
            else:
                milliseconds[variant].append(time_step(network, inputs, precision, device))
            bar.update()

    reference = model.variants[0].name
    lines = []
    for variant in model.variants:
        ratios = [
            x / y for x, y in zip(milliseconds[variant.name], milliseconds[reference], strict=True)
        ]
        here, there = resources[variant.name], resources[reference]
        lines.append(
            {
                "kind": "step",
                "model": name,
                "variant": variant.name,
                "reference": variant.name == reference,
                "precision": precision,
                "images": len(inputs),
                "size": " x ".join(map(str, model.image_size)),
                "B": variant.batch_size,
                "R": model.num_proposals + NUM_OBJECTS,  # ground-truth boxes are RoIs, too
                "kept": here.num_kept,
                "foreground": here.num_foreground,
                "ms": median(milliseconds[variant.name]),
                "ratio": median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "parts": {x: median(y[x] for y in parts[variant.name]) for x in PARTS},
                "peak_mib": here.peak_mib,
                "memory_ratio": here.peak_mib / there.peak_mib,
                "gflops": here.gflops,
                "flops_ratio": here.gflops / there.gflops,
            }
        )
    return lines


class Resources(NamedTuple):
    """
    What a step needs, whatever the machine.
    """

    gflops: float  # 10^9 floating-point operations: a multiplication and an addition are two
    peak_mib: float  # of tensors: weights, gradients and activations
    num_kept: float  # RoIs an image that are trained on
    num_foreground: float


def count_resources(
    network: GeneralizedRCNN, inputs: list[dict], precision: str, device: str
) -> Resources:
    """
    Count the operations of convolutions and matrix products as PyTorch dispatches them, with those
    of the backward pass, of which frozen layers have none. It warms up the network as well.
    """
    with EventStorage() as storage:
        counter = FlopCounterMode(display=False)

        def counted_step() -> None:
            with counter:
                train_step(network, inputs, precision, device)

        network.zero_grad(set_to_none=True)  # before the count of what is allocated
        peak = peak_memory(counted_step, device)
        counts = {k: value for k, (value, _) in storage.latest().items()}
    tensors = [*network.parameters(), *network.buffers()]
    num_foreground = counts["roi_head/num_fg_samples"]
    return Resources(
        counter.get_total_flops() / 1e9,
        peak + sum(x.numel() * x.element_size() for x in tensors) / 2**20,
        num_foreground + counts["roi_head/num_bg_samples"],
        num_foreground,
    )


def time_step(network: GeneralizedRCNN, inputs: list[dict], precision: str, device: str) -> float:
    """
    Returns:
        float: milliseconds.
    """
    synchronize()
    start = time.perf_counter()
    train_step(network, inputs, precision, device)
    synchronize()
    return 1000 * (time.perf_counter() - start)


# Mining alone.


@torch.no_grad()
def extract_features(network: GeneralizedRCNN, inputs: list[dict]) -> dict[str, Tensor]:
    return network.backbone(network.preprocess_image(inputs).tensor)


def label_rois(network: GeneralizedRCNN, inputs: list[dict], device: str) -> list[Instances]:
    proposals, targets = ([x[k].to(device) for x in inputs] for k in ("proposals", "instances"))
    return network.roi_heads.label_proposals(proposals, targets)


def measure_sweep(
    name: str, model: Model, network: GeneralizedRCNN, repeats: int, device: str
) -> list[StepLine]:
    """
    Returns:
        list[StepLine]: what mining takes on one image, in float32, by the number of RoIs.
    """
    heads = network.roi_heads
    features = extract_features(network, make_inputs(model, 1))
    lines = []
    default = heads.ohem_mining_batch_size
    for num_rois in tqdm(SWEEP_ROIS, f"{name}, mining", unit="R"):
        rois = label_rois(network, make_inputs(model, 1, num_rois - NUM_OBJECTS), device)
        for batch_size in SWEEP_BATCH_SIZES:

            def mine(rois=rois) -> None:
                heads.mine_hard_rois(features, rois)

            heads.ohem_mining_batch_size = batch_size
            peak = peak_memory(mine, device)  # first, because it warms up
            lines.append(
                {
                    "kind": "sweep",
                    "model": name,
                    "precision": "float32",
                    "R": num_rois,
                    "mining_batch_size": batch_size,
                    "ms": measure({"mining": mine}, repeats)["mining"],
                    "peak_mib": peak,
                }
            )
    heads.ohem_mining_batch_size = default
    return lines


def measure_overlap(
    name: str, networks: dict[str, GeneralizedRCNN], inputs: list[dict], device: str
) -> StepLine:
    """
    Returns:
        StepLine: how many RoIs mining keeps, and how many of these in half precision as well.
        Weights are random: of trained ones, losses lie farther apart.
    """
    features = extract_features(networks[OHEM], inputs)
    rois = label_rois(networks[OHEM], inputs, device)
    for rois_per_image in rois:
        rois_per_image.number = torch.arange(len(rois_per_image), device=device)
    kept = []
    for variant in (OHEM, HALF):
        heads = networks[variant].roi_heads
        heads.box_head.eval()  # or dropout would differ
        torch.manual_seed(0)  # the foreground is a random sample
        mined = heads.mine_hard_rois(features, rois)
        heads.box_head.train()
        kept.append({(i, n) for i, x in enumerate(mined) for n in x.number.tolist()})
    return {
        "kind": "overlap",
        "model": name,
        "precision": "half",
        "kept": len(kept[0]),
        "shared": len(kept[0] & kept[1]),
    }


def measure_monitor(
    name: str, network: GeneralizedRCNN, inputs: list[dict], repeats: int, device: str
) -> StepLine:
    """
    Returns:
        StepLine: what it takes to show what mining picks, as it is done in every VIS_PERIOD.
    """
    heads, monitor = network.roi_heads, network.roi_heads.ohem_monitor
    images = network.preprocess_image(inputs)
    targets = [x["instances"].to(device) for x in inputs]
    rois = label_rois(network, inputs, device)
    period, monitor.period = monitor.period, 1

    def show() -> None:
        monitor.watch(images, targets)
        monitor.show(rois, losses, hard, heads.num_classes)

    with EventStorage():  # for the pictures: those in the caller's would stay
        monitor.watch(images, targets)
        losses = heads._read_only_roi_losses(extract_features(network, inputs), rois)
        hard = heads.select_hard_rois(rois, losses)
        show()  # warms up
        milliseconds = measure({"picture": show}, repeats)["picture"]
    monitor.period = period
    return {"kind": "monitor", "model": name, "ms": milliseconds}


# Targets.


def check_targets(lines: Sequence[StepLine]) -> list[StepLine]:
    """
    Args:
        lines: of the kind "step".

    Returns:
        list[StepLine]: a line of the kind "target" for each that concerns them.
    """
    by_variant = {(x["model"], x["precision"], x["variant"]): x for x in lines}
    targets = []

    def add(
        name: str, line: StepLine, measured: float, limit: float, at_least: bool = False
    ) -> None:
        targets.append(
            {
                "kind": "target",
                "name": f"{line['model']}, {line['variant']}, {line['precision']}: {name}",
                "limit": limit,
                "at_least": at_least,
                "measured": measured,
                "met": measured >= limit if at_least else measured <= limit,
            }
        )

    for line in lines:
        variants = {x.name: x for x in MODELS[line["model"]].variants}
        variant = variants[line["variant"]]
        if line["reference"]:
            continue
        if variant.is_loss_layer:
            read_only = by_variant[line["model"], line["precision"], OHEM]
            ratio = heads_time(line) / heads_time(read_only)
            name = "time of the RoI heads / with the read-only pass"
            add(name, line, ratio, MIN_LOSS_LAYER_RATIO, at_least=True)
            continue
        if variant.max_ratio is not None:
            add("time / reference", line, line["ratio"], variant.max_ratio)
        add("peak memory / reference", line, line["memory_ratio"], MAX_MEMORY_RATIO)
        share = line["parts"][LOSS_AND_SELECTION] / sum(line["parts"].values())
        add("share of loss and selection", line, share, MAX_SELECTION_SHARE)
    return targets


def heads_time(line: StepLine) -> float:
    """
    Returns:
        float: milliseconds of the RoI heads, forward and backward, without what all variants share.
    """
    return sum(line["parts"][x] for x in HEADS_PARTS)


def make_tables(lines: Sequence[StepLine]) -> str:
    """
    Returns:
        str: all of the output, in Markdown.
    """
    steps, sweeps, overlaps, monitors, targets = (
        [x for x in lines if x["kind"] == kind]
        for kind in ("step", "sweep", "overlap", "monitor", "target")
    )
    parts = parts_tables(steps)
    blocks = []
    for title, table in step_tables(steps).items():
        blocks += [title, table, "Its parts, in ms and as shares of the step.", parts[title]]
    if sweeps:
        blocks += ["Mining one image, by the number of RoIs.", sweep_table(sweeps)]
    if overlaps:
        blocks += ["RoIs that mining in half precision keeps as well.", overlap_table(overlaps)]
    if monitors:
        blocks += ["To show what mining picks.", monitor_table(monitors)]
    blocks += ["Targets.", targets_table(targets)]
    missed = [x["name"] for x in targets if not x["met"]]
    return "\n\n".join([*blocks, f"Missed: {'; '.join(missed) or 'none'}."]) + "\n"


def run(args: argparse.Namespace, device: str) -> list[StepLine]:
    """
    Returns:
        list[StepLine]: of all kinds. Those of a model are written as soon as it is done.
    """
    origin = provenance()
    lines: list[StepLine] = []
    passes = len(args.precisions) * (1 + args.repeats)
    bar = tqdm(total=passes * sum(len(MODELS[x].variants) for x in args.models), unit="step")
    for name in args.models:
        model = MODELS[name]
        bar.set_description(name)
        inputs = make_inputs(model, args.images)
        networks = build_variants(model, inputs, device)
        of_model = []
        for precision in args.precisions:
            with use_tf32(precision == "tf32"):
                of_model += measure_steps(
                    name, model, networks, inputs, precision, args.repeats, device, bar
                )
        of_model += check_targets(of_model)
        with use_tf32(False):
            if HALF in networks:
                of_model.append(measure_overlap(name, networks, inputs, device))
            if model.has_sweep:
                step_ms = next(x["ms"] for x in of_model if x.get("variant") == OHEM)
                monitor = measure_monitor(name, networks[OHEM], inputs, args.repeats, device)
                of_model.append({**monitor, "step_ms": step_ms})
                # On a CPU it takes seconds, and so once is enough.
                repeats = 1 if device == "cpu" else args.repeats
                of_model += measure_sweep(name, model, networks[OHEM], repeats, device)
        del networks  # before the next are built: the memory
        lines += [{**x, **origin} for x in of_model]
        write(lines, args.output)
    bar.close()
    return lines


def write(lines: Sequence[StepLine], output: Path) -> None:
    with atomic_file(output) as path:
        path.write_text("".join(json.dumps(x) + "\n" for x in lines))


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), help="by default all"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=20 if on_gpu else 3,
        help="of each measurement; by default 20 on a GPU, and 3 on a CPU",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=2 if on_gpu else 1,
        help="a step; by default 2 on a GPU, and 1 on a CPU",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS if on_gpu else PRECISIONS[:1]),
        help="by default all on a GPU, and float32 on a CPU",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        help="a file of JSON lines, by default benchmarks/results/step_time.jsonl",
    )
    args = parser.parse_args()
    if min(args.images, args.repeats) < 1:
        sys.exit("step_time.py: --images and --repeats must be 1 or more.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with EventStorage():  # that models log in
        lines = run(args, device)
    print(make_tables(lines), end="")


if __name__ == "__main__":
    main()
