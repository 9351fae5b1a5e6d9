#!/usr/bin/env python3
"""
Train a small detector on made images with detectron2's heuristic sampling and with online hard
example mining, evaluate both, and write a page that shows them side by side.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from detectron2 import __version__ as detectron2_version
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from PIL import Image
from tqdm import tqdm

from ohem_d2.data.datasets.clutter import NUM_IMAGES, generate_clutter
from ohem_d2.engine import InputError, fall_back_to_cpu, load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader, features_and_rois, mean_roi_loss
from ohem_d2.utils import read_metrics
from ohem_d2.visualization.boxes import detect, draw_detections
from ohem_d2.visualization.curves import Run, draw_curves
from ohem_d2.visualization.hard_rois import draw_hard_rois
from ohem_d2.visualization.page import write_page
from ohem_d2.visualization.report import compare

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    "heuristic sampling": ROOT / "configs/demo/faster_rcnn_R_18.yaml",
    "OHEM": ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml",
}
DATASETS = {"VOC": "clutter_voc_test", "COCO": "clutter_coco_test"}
NUM_LOSS_IMAGES = 60  # training images that the mean loss over all RoIs is measured on
NUM_PICTURES = 4


def write_initial_weights(path: Path, cfg: CfgNode) -> None:
    seed_all_rng(cfg.SEED)
    torch.save({"model": build_model(cfg).state_dict()}, path)


def train(config: Path, folder: Path, options: list[str], iterations: int, bar: tqdm) -> float:
    """
    Run train_net.py in a process of its own, and advance the bar by its iterations.

    Returns:
        float: peak memory of the process in MiB.
    """
    folder.mkdir()
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config), *options]
    first = bar.n
    with open(folder / "console.txt", "w") as console:
        process = subprocess.Popen(command, cwd=ROOT, stdout=console, stderr=subprocess.STDOUT)
        try:
            pid = 0
            while pid == 0:
                time.sleep(0.5)
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                done = max((x["iteration"] + 1 for x in read_metrics(folder)), default=0)
                # What the evaluation logs comes after the last iteration.
                bar.update(first + min(done, iterations) - bar.n)
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)  # os.wait4 has not told Popen
    if process.returncode != 0:
        lines = (folder / "console.txt").read_text().splitlines()
        bar.close()
        sys.exit("\n".join([*lines[-15:], f"Training failed; all of its output: {console.name}"]))
    return usage.ru_maxrss / 1024  # from KiB


def load_model(cfg: CfgNode, weights: Path) -> torch.nn.Module:
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(weights))
    return model.eval()


def measure_mean_roi_loss(cfg: CfgNode, folder: Path, inputs: list[dict]) -> dict[int, float]:
    """
    Returns:
        dict[int, float]: for the iteration of each checkpoint.
    """
    checkpoints = {
        int(file.stem.removeprefix("model_")) + 1: file
        for file in sorted(folder.glob("model_0*.pth"))
    }
    checkpoints[cfg.SOLVER.MAX_ITER] = folder / "model_final.pth"
    return {
        iteration: mean_roi_loss(load_model(cfg, file), [[x] for x in inputs])
        for iteration, file in checkpoints.items()
    }


@torch.no_grad()
def find_hard_rois(model: torch.nn.Module, inputs: dict, num_classes: int) -> tuple[Instances, str]:
    """
    Returns:
        (Instances, str): the RoIs that mining keeps, with their losses; and a title.
    """
    features, rois = features_and_rois(model, [inputs])
    rois = model.roi_heads.compute_roi_losses(features, rois)
    (hard,) = model.roi_heads.select_hard_rois(rois)
    fg = int((hard.gt_classes < num_classes).sum())
    title = f"{len(hard)} of {len(rois[0])} RoIs kept: {fg} foreground, {len(hard) - fg} background"
    return hard.to("cpu"), title


def draw_pictures(
    output: Path,
    models: dict[str, torch.nn.Module],
    train_inputs: list[dict],
    test_inputs: list[dict],
    image_format: str,
) -> None:
    def rgb(inputs: dict):
        return convert_image_to_rgb(inputs["image"].permute(1, 2, 0), image_format)

    metadata = MetadataCatalog.get(DATASETS["VOC"])
    draw_detections(
        output / "detections.jpg",
        [rgb(x) for x in test_inputs],
        [x["instances"] for x in test_inputs],
        {name: [detect(model, x) for x in test_inputs] for name, model in models.items()},
        metadata.thing_classes,
    )
    hard = [find_hard_rois(models["OHEM"], x, len(metadata.thing_classes)) for x in train_inputs]
    rois, titles = zip(*hard, strict=True)
    picture = draw_hard_rois(
        [rgb(x) for x in train_inputs],
        [x["instances"].gt_boxes for x in train_inputs],
        rois,
        len(metadata.thing_classes),
        titles,
    )
    Image.fromarray(picture).save(output / "hard_rois.jpg", quality=90)


def first_images(cfg: CfgNode, dataset: str, count: int) -> list[dict]:
    inputs = []
    for batch in build_mean_roi_loss_loader(cfg, dataset):
        inputs.extend(batch)
        if len(inputs) >= count:
            break
    return inputs[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo")
    parser.add_argument(
        "opts", nargs="*", help="options of both configs, such as SOLVER.MAX_ITER 60"
    )
    args = parser.parse_args()
    started = time.monotonic()
    try:
        configs = {name: load_config(str(file), args.opts) for name, file in CONFIGS.items()}
    except InputError as e:
        sys.exit(f"demo.py: {e}")
    for cfg in configs.values():
        fall_back_to_cpu(cfg)

    if args.output.exists():
        previous = args.output.with_name(f"{args.output.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        args.output.rename(previous)
        print(f"An earlier output is kept in {previous}")
    args.output.mkdir(parents=True)
    datasets = os.path.abspath(os.getenv("DETECTRON2_DATASETS", "datasets"))
    print(f"1/4 The dataset, in {generate_clutter(datasets)}", flush=True)

    weights = args.output.resolve() / "initial_weights.pth"
    for cfg in configs.values():
        cfg.MODEL.WEIGHTS = str(weights)
    cfg = configs["OHEM"]
    write_initial_weights(weights, cfg)

    print("2/4 Training and evaluating both detectors", flush=True)
    folders = {name: args.output.resolve() / file.stem for name, file in CONFIGS.items()}
    peak_memory = {}
    with tqdm(total=2 * cfg.SOLVER.MAX_ITER, unit="it", smoothing=0) as bar:
        for name, file in CONFIGS.items():
            bar.set_description(name)
            options = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(folders[name]), *args.opts]
            peak_memory[name] = train(file, folders[name], options, cfg.SOLVER.MAX_ITER, bar)

    print("3/4 Mean loss over all RoIs, of each checkpoint", flush=True)
    train_inputs = first_images(cfg, cfg.DATASETS.TRAIN[0], NUM_LOSS_IMAGES)
    runs = [
        Run(
            name,
            read_metrics(folder),
            measure_mean_roi_loss(configs[name], folder, train_inputs),
            peak_memory[name],
        )
        for name, folder in folders.items()
    ]

    print("4/4 Pictures", flush=True)
    draw_curves(args.output / "curves.png", runs)
    draw_pictures(
        args.output,
        {name: load_model(configs[name], folders[name] / "model_final.pth") for name in CONFIGS},
        train_inputs[:NUM_PICTURES],
        first_images(cfg, DATASETS["VOC"], NUM_PICTURES),
        cfg.INPUT.FORMAT,
    )
    table = compare(runs, DATASETS)
    minutes = (time.monotonic() - started) / 60
    page = args.output / "index.html"
    write_page(
        page,
        "report.html",
        table=table,
        num_images=NUM_IMAGES,
        iterations=cfg.SOLVER.MAX_ITER,
        num_loss_images=len(train_inputs),
        footer=f"Made by make demo in {minutes:.1f} minutes, on {cfg.MODEL.DEVICE}, with "
        f"PyTorch {torch.__version__} and detectron2 {detectron2_version}.",
    )
    print(f"\n{table}\n\nIn {minutes:.1f} minutes. Open {page}")


if __name__ == "__main__":
    main()
