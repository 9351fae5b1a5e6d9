"""
Measure what OHEM costs in a training step: time, operations and peak memory beside the same model
without it; the parts of the step; and mining by the number of RoIs.

    python -m benchmarks.step_time.run

A step is a forward and a backward pass, without the optimizer, which is the same for all. Weights,
images, objects and proposals are random. The variants of a model take turns, so that other load on
the machine affects all of them; what counts are ratios: medians over the repeats, and their range.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.measure import measure, peak_memory, synchronize
from benchmarks.provenance import RESULTS, ROOT, provenance, require_clean_commit
from benchmarks.step_time.models import (
    MODELS,
    NUM_OBJECTS,
    OHEM,
    Model,
    build_variants,
    make_inputs,
)
from benchmarks.step_time.parts import PARTS, PRECISIONS, set_tf32, time_parts, train_step
from benchmarks.step_time.tables import all_tables, read_steps
from ohem_d2.utils import InputError, atomic_file

FILE = "step_time.jsonl"

# RoIs of one image, and how many of them are forwarded at a time (0: all).
SWEEP_ROIS = (500, 1000, 2000, 4000, 8000)
SWEEP_BATCH_SIZES = (0, 500)

Line = dict[str, Any]


def shrink(model: Model) -> Model:
    """
    A model on a small image with few proposals, to see that everything runs.
    """
    return model._replace(image_size=(64, 96), num_proposals=40)


def measure_steps(
    name: str,
    model: Model,
    networks: dict[str, GeneralizedRCNN],
    inputs: list[dict],
    precision: str,
    repeats: int,
    device: str,
    bar: tqdm,
) -> list[Line]:
    """
    Args:
        networks: see :func:`build_variants`.

    Returns:
        list[Line]: time, operations and memory of a step of each variant.
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
                # Nothing runs in parallel, so the stopwatch costs no time.
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
                "pool_size": variant.pool_size,
                "B": variant.batch_size,
                "R": model.num_proposals + NUM_OBJECTS,  # with the ground-truth boxes
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
    What a step needs on any machine.
    """

    gflops: float  # 10^9 floating-point operations: a multiplication and an addition are two
    peak_mib: float  # of tensors: weights, gradients and activations
    num_kept: float  # RoIs per image that are trained on
    num_foreground: float


def count_resources(
    network: GeneralizedRCNN, inputs: list[dict], precision: str, device: str
) -> Resources:
    """
    Count the operations of convolutions and matrix products that PyTorch dispatches, forward and
    backward. This also warms up the network.
    """
    with EventStorage() as storage:
        counter = FlopCounterMode(display=False)

        def counted_step() -> None:
            with counter:
                train_step(network, inputs, precision, device)

        network.zero_grad(set_to_none=True)  # before allocations are counted
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
    name: str,
    model: Model,
    network: GeneralizedRCNN,
    counts: Sequence[int],
    repeats: int,
    device: str,
) -> list[Line]:
    """
    Args:
        counts: numbers of RoIs.

    Returns:
        list[Line]: time and memory of mining one image in float32, by the number of RoIs.
    """
    heads = network.roi_heads
    features = extract_features(network, make_inputs(model, 1))
    lines = []
    default = heads.ohem_mining_batch_size
    for num_rois in tqdm(counts, f"{name}, mining", unit="R"):
        rois = label_rois(network, make_inputs(model, 1, num_rois - NUM_OBJECTS), device)
        for batch_size in SWEEP_BATCH_SIZES:

            def mine(rois=rois) -> None:
                heads.select_hard_rois(heads.compute_roi_losses(features, rois))

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


def run(args: argparse.Namespace, device: str, output: Path) -> None:
    """
    Measure models one after the other, and write the lines of each as soon as it is done.
    """
    origin = provenance()  # before files are edited while it runs
    passes = len(args.precisions) * (1 + args.repeats)
    bar = tqdm(total=passes * sum(len(MODELS[x].variants) for x in args.models), unit="step")
    for name in args.models:
        model = shrink(MODELS[name]) if args.tiny else MODELS[name]
        bar.set_description(name)
        inputs = make_inputs(model, args.images)
        networks = build_variants(model, inputs, device)
        lines = []
        for precision in args.precisions:
            lines += measure_steps(
                name, model, networks, inputs, precision, args.repeats, device, bar
            )
        if model.has_sweep:
            # On a CPU it takes seconds, so once is enough.
            repeats = 1 if device == "cpu" else args.repeats
            counts = SWEEP_ROIS[:1] if args.tiny else SWEEP_ROIS
            with set_tf32(False):
                lines += measure_sweep(name, model, networks[OHEM], counts, repeats, device)
        del networks  # frees the memory for the next
        write([{**x, **origin} for x in lines], output)
    bar.close()


def write(lines: Sequence[Line], output: Path) -> None:
    """
    Write lines to a file, in place of those of the same model and machine.
    """
    recorded = output.read_text().splitlines() if output.exists() else []
    keys = {(x["model"], x["machine"]) for x in lines}
    others = [x for x in map(json.loads, recorded) if (x["model"], x["machine"]) not in keys]
    with atomic_file(output) as path:
        path.write_text("".join(json.dumps(x) + "\n" for x in [*others, *lines]))


def main(arguments: Sequence[str] | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=20 if on_gpu else 3,
        help="of each measurement (default: 20 on a GPU, 3 on a CPU)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=2 if on_gpu else 1,
        help="per step (default: 2 on a GPU, 1 on a CPU)",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS if on_gpu else PRECISIONS[:1]),
        help="default: all on a GPU, float32 on a CPU",
    )
    parser.add_argument(
        "--trial",
        action="store_true",
        help=f"accept a changed work tree, and write to output/{FILE}, which the report does not "
        f"read, instead of benchmarks/results/{FILE}",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="small images and few proposals, to see that it runs"
    )
    parser.add_argument(
        "--output", type=Path, help=f"write {FILE} and its tables to this folder instead"
    )
    args = parser.parse_args(arguments)
    if min(args.images, args.repeats) < 1:
        raise InputError("--images and --repeats must be 1 or more.")
    if args.tiny and not (args.trial or args.output):
        raise InputError("--tiny measures nothing to report: add --trial or --output.")
    if not args.trial:
        require_clean_commit()
    folder = args.output or (ROOT / "output" if args.trial else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    with EventStorage():  # that models log in
        run(args, device, folder / FILE)
    if args.output:
        with atomic_file(folder / "step_time.md") as path:
            path.write_text(all_tables(read_steps(folder, accept_changed=args.trial)))


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"step_time: {e}")
