#!/usr/bin/env python3
"""
Train a small detector on synthetic images with random sampling of RoIs and with online hard
example mining, evaluate both, and write a page that compares them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from ohem_d2.checkpoint import load_model
from ohem_d2.data.datasets.clutter import CLASS_NAMES, NUM_IMAGES, generate_clutter
from ohem_d2.engine import InputError, fall_back_to_cpu, load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader, features_and_rois, mean_roi_loss
from ohem_d2.evaluation.compared_dataset import read_compared_dataset
from ohem_d2.evaluation.error_breakdown import find_best_threshold, rank_detections
from ohem_d2.evaluation.mean_roi_loss import find_checkpoints
from ohem_d2.utils import read_metrics
from ohem_d2.visualization.curves import Run, draw_curves
from ohem_d2.visualization.detections import draw_detections
from ohem_d2.visualization.hard_rois import draw_hard_rois
from ohem_d2.visualization.page import write_page

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    "random sampling": ROOT / "configs/demo/faster_rcnn_R_18.yaml",
    "OHEM": ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml",
}
DATASETS = {"VOC": "clutter_voc_test", "COCO": "clutter_coco_test"}
NUM_LOSS_IMAGES = 60  # training images for the mean loss over all RoIs
NUM_PICTURES = 4  # with hard RoIs
NUM_DETECTED = 3  # with detections


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
                # The final evaluation logs an iteration beyond the last.
                done = max((x["iteration"] + 1 for x in read_metrics(folder)), default=0)
                bar.update(first + min(done, iterations) - bar.n)
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen does not know of os.wait4
    if process.returncode != 0:
        lines = (folder / "console.txt").read_text().splitlines()
        bar.close()
        sys.exit("\n".join([*lines[-15:], f"Training failed. Full output: {console.name}"]))
    return usage.ru_maxrss / 1024  # from KiB


def load_checkpoint(cfg: CfgNode, file: Path) -> torch.nn.Module:
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(file)
    return load_model(cfg)


def measure_mean_roi_loss(cfg: CfgNode, folder: Path, inputs: list[dict]) -> dict[int, float]:
    """
    Returns:
        dict[int, float]: mean loss over all RoIs by the iteration of the checkpoint.
    """
    return {
        iteration: mean_roi_loss(load_checkpoint(cfg, file), [[x] for x in inputs])
        for iteration, file in find_checkpoints(folder, cfg.SOLVER.MAX_ITER).items()
    }


def find_hard_rois(model: torch.nn.Module, inputs: dict) -> tuple[Instances, str]:
    """
    Returns:
        (Instances, str): the RoIs that were mined, with their losses; and a title.
    """
    heads = model.roi_heads
    features, rois = features_and_rois(model, [inputs])
    with EventStorage():  # that mining logs in
        (sampled,), _, (hard,) = heads.mine_hard_rois(features, rois)
    fg = int((hard.gt_classes < heads.num_classes).sum())
    title = (
        f"{len(hard)} of {len(rois[0])} RoIs mined: {fg} foreground, {len(hard) - fg} background"
    )
    if len(sampled):
        title += f"\n(beside {len(sampled)} random foreground RoIs, which are not shown)"
    return hard.to("cpu"), title


def find_best_thresholds(folders: dict[str, Path]) -> dict[str, float]:
    """
    Returns:
        dict[str, float]: by run, the score threshold that maximizes F1 on the test images.
    """
    name = DATASETS["VOC"]
    dataset = read_compared_dataset(name, tuple(x / "inference" / name for x in folders.values()))
    return {
        run: find_best_threshold(rank_detections(dataset.judge(i, "bbox")))
        for i, run in enumerate(folders)
    }


@torch.no_grad()
def draw_pictures(
    output: Path,
    models: dict[str, torch.nn.Module],
    train_inputs: list[dict],
    test_inputs: list[dict],
    min_scores: dict[str, float],
    image_format: str,
) -> None:
    def rgb(inputs: list[dict]) -> list:
        images = [x["image"].permute(1, 2, 0) for x in inputs]
        return [convert_image_to_rgb(x, image_format) for x in images]

    def detect(model: torch.nn.Module) -> list[Instances]:
        # Without "height" and "width", in the coordinates of the image given.
        return [model([{"image": x["image"]}])[0]["instances"].to("cpu") for x in test_inputs]

    rois, titles = zip(*[find_hard_rois(models["OHEM"], x) for x in train_inputs], strict=True)
    objects = [x["instances"].gt_boxes for x in train_inputs]
    pictures = {
        "detections.jpg": draw_detections(
            rgb(test_inputs),
            [x["instances"] for x in test_inputs],
            {name: detect(model) for name, model in models.items()},
            MetadataCatalog.get(DATASETS["VOC"]).thing_classes,
            min_scores,
        ),
        "hard_rois.jpg": draw_hard_rois(rgb(train_inputs), objects, rois, len(CLASS_NAMES), titles),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(output / name, quality=90)


def first_images(cfg: CfgNode, dataset: str, count: int) -> list[dict]:
    loader = build_mean_roi_loss_loader(cfg, dataset)  # batches of one
    return [x for batch in islice(loader, count) for x in batch]


def make_table(runs: list[Run], tablefmt: str) -> str:
    """
    A column for each run.
    """
    rows = {}
    for label, dataset in DATASETS.items():
        for metric, title in [("AP", "mAP, IoU .5 to .95"), ("AP50", "AP50")]:
            name = f"{dataset}/bbox/{metric}"
            rows[f"{title}, {label}"] = [f"{x.series(name)[1][-1]:.1f}" for x in runs]
    losses = [list(x.mean_roi_loss.values())[-1] for x in runs]
    rows["mean loss over all RoIs"] = [f"{x:.4f}" for x in losses]
    rows["seconds per iteration"] = [f"{median(x.series('time')[1]):.3f}" for x in runs]
    rows["peak memory of the process, MiB"] = [f"{x.peak_memory:.0f}" for x in runs]
    return tabulate(
        [[label, *values] for label, values in rows.items()],
        headers=["", *(x.name for x in runs)],
        colalign=["left"] + ["right"] * len(runs),
        disable_numparse=True,  # keep the digits
        tablefmt=tablefmt,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo")
    parser.add_argument(
        "opts", nargs="*", help="options for both configs, such as SOLVER.MAX_ITER 60"
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
        print(f"Moved the previous output to {previous}")
    args.output.mkdir(parents=True)
    datasets = os.path.abspath(os.getenv("DETECTRON2_DATASETS", "datasets"))
    print(f"1/4 Dataset: {generate_clutter(datasets)}", flush=True)

    cfg = configs["OHEM"]
    weights = args.output.resolve() / "initial_weights.pth"
    write_initial_weights(weights, cfg)

    print("2/4 Training and evaluating both detectors", flush=True)
    folders = {name: args.output.resolve() / file.stem for name, file in CONFIGS.items()}
    peak_memory = {}
    with tqdm(total=2 * cfg.SOLVER.MAX_ITER, unit="it", smoothing=0) as bar:
        for name, file in CONFIGS.items():
            bar.set_description(name)
            options = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(folders[name]), *args.opts]
            peak_memory[name] = train(file, folders[name], options, cfg.SOLVER.MAX_ITER, bar)

    print("3/4 Mean loss over all RoIs of each checkpoint", flush=True)
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
    models = {
        name: load_checkpoint(configs[name], folder / "model_final.pth")
        for name, folder in folders.items()
    }
    test_inputs = first_images(cfg, DATASETS["VOC"], NUM_DETECTED)
    min_scores = find_best_thresholds(folders)
    draw_pictures(
        args.output,
        models,
        train_inputs[:NUM_PICTURES],
        test_inputs,
        min_scores,
        cfg.INPUT.FORMAT,
    )
    minutes = (time.monotonic() - started) / 60
    page = args.output / "index.html"
    write_page(
        page,
        "report.html",
        table=make_table(runs, "html"),
        num_images=NUM_IMAGES,
        iterations=cfg.SOLVER.MAX_ITER,
        num_loss_images=len(train_inputs),
        footer=f"make demo took {minutes:.1f} minutes on {cfg.MODEL.DEVICE}, with PyTorch "
        f"{torch.__version__} and detectron2 {detectron2_version}.",
    )
    print(
        f"\n{make_table(runs, 'simple')}\n\nOne seed, on synthetic images: this shows that all "
        f"works, and not which is better.\nDone in {minutes:.1f} minutes. Open {page}"
    )


if __name__ == "__main__":
    main()
