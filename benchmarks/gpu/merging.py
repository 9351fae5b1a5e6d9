"""
Run benchmarks.test_time on R50-FPN with random weights and a synthetic dataset, which need no
download.

    python -m benchmarks.gpu.merging
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import torch
from detectron2.utils.events import EventStorage

from benchmarks.provenance import ROOT
from benchmarks.step_time.models import MODELS, STOCK, Model, build_variants, make_inputs
from benchmarks.step_time.run import shrink
from ohem_d2.data.datasets.clutter import CLASS_NAMES, generate_clutter

NUM_CLASSES = ("MODEL.ROI_HEADS.NUM_CLASSES", len(CLASS_NAMES))
OPTIONS = (
    *NUM_CLASSES,
    *("DATASETS.TEST", '("clutter_voc_test",)'),
    # Random scores are low and alike, so no threshold is of use: few RoIs with boxes of all classes
    # keep the number of boxes, which the table gives, near that of a trained detector.
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 100),
)
# The paper's scales, as in configs/Base-FastRCNN-VGG16.yaml.
SCALES = ("TEST.AUG.MIN_SIZES", "(480,576,688,864,1000)", "TEST.AUG.MAX_SIZE", 2000)
TINY_SCALES = ("TEST.AUG.MIN_SIZES", "(64,80)", "INPUT.MIN_SIZE_TEST", 64)


def write_random_weights(path: Path, model: Model, image_file: Path) -> None:
    """
    Write weights whose features are normalized on an image: see :func:`build_variants`.
    """
    model = model._replace(variants=model.variants[:1], options=NUM_CLASSES)
    inputs = make_inputs(model, 1)
    pixels = cv2.resize(cv2.imread(str(image_file)), model.image_size[::-1])
    inputs[0]["image"] = torch.as_tensor(pixels).permute(2, 0, 1)
    with EventStorage():
        network = build_variants(model, inputs, "cpu")[STOCK]
    network.proposal_generator = network.proposal_generator.rpn  # proposes by itself at test time
    torch.save({"model": network.state_dict()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10, help="of the dataset (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="small images, to see that it runs")
    parser.add_argument("--output", type=Path, help="a file for the tables (default: none)")
    args = parser.parse_args()
    model = MODELS["R50-FPN"]
    with tempfile.TemporaryDirectory() as folder:
        # detectron2 cannot read a dataset of one image.
        dataset = generate_clutter(folder, 0, {"train": 2, "test": max(args.images, 2)})
        image_file = min((dataset / "JPEGImages").iterdir())
        weights = Path(folder) / "random.pth"
        write_random_weights(weights, shrink(model) if args.tiny else model, image_file)
        command = [sys.executable, "-m", "benchmarks.test_time", "--config-file", model.config]
        command += ["--weights", str(weights), "--images", str(args.images)]
        command += ["--repeats", str(args.repeats)]
        if args.output:
            command += ["--output", str(args.output.resolve())]
        command += map(str, (*OPTIONS, *(TINY_SCALES if args.tiny else SCALES)))
        environment = {**os.environ, "DETECTRON2_DATASETS": folder}
        sys.exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
