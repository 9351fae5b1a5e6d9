"""
A small dataset, configs, and what trainings and tools leave: all of it sound.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from conftest import load_config
from PIL import Image
from scipy.io import savemat

from .fault import COCO, VOC
from .running import run_command

__all__ = ["make_sound_folder"]

IMAGES = "abc"
SIZE = (96, 80)  # width, height
# Of each image: class, and corners as in a VOC file.
BOXES = {
    "a": [("cat", (11, 11, 40, 40)), ("dog", (51, 21, 90, 70))],
    "b": [("dog", (5, 5, 60, 60))],
    "c": [("cat", (1, 1, 96, 80))],
}
CLASSES = ("cat", "dog")

MY_DATA = """
from detectron2.data.datasets import register_pascal_voc

register_pascal_voc("pets", "voc", "all", 2012, ["cat", "dog"])
"""

# A detector that trains and evaluates in seconds.
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", 2),
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 60, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.OHEM.WARMUP_ITERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "TEST.AUG.MIN_SIZES", (64,)),
    *("DATALOADER.NUM_WORKERS", 0, "SEED", 1, "OUTPUT_DIR", "new"),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ()),
    *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.WARMUP_ITERS", 0),
    *("DATASETS.TRAIN", (VOC,), "DATASETS.TEST", (VOC, COCO)),
]
# And one that has proposals instead of an RPN.
FAST_RCNN = [
    *("MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
    *("DATASETS.TEST", (VOC,), "DATASETS.PROPOSAL_FILES_TRAIN", ("proposals.pkl",)),
    *("DATASETS.PROPOSAL_FILES_TEST", ("proposals.pkl",)),
]


def make_sound_folder(folder: Path) -> None:
    """
    Args:
        folder (Path): where to write. It does not exist.
    """
    folder.mkdir(parents=True)
    _write_dataset(folder)
    (folder / "my_data.py").write_text(MY_DATA)
    for name, options in (("config.yaml", TINY), ("fast_rcnn.yaml", TINY + FAST_RCNN)):
        config = load_config("demo/faster_rcnn_R_18_ohem.yaml", *options)
        (folder / name).write_text(config.dump())
    _write_proposals(folder)
    torch.save({"conv1.weight": torch.rand(8, 3, 7, 7)}, folder / "classifier.pth")
    for name, heads in (("a", "StandardROIHeads"), ("b", "OHEMROIHeads")):
        options = ["MODEL.ROI_HEADS.NAME", heads, "OUTPUT_DIR", name]
        _run(folder, "train", "--config-file", "config.yaml", *options)
    _make_perfect(folder, "b")
    weights = ["MODEL.WEIGHTS", "a/model_final.pth"]
    _run(folder, "inspect", "--config-file", "config.yaml", "--output", "inspection", *weights)


def _make_perfect(folder: Path, run: str) -> None:
    """
    Let the detections of a run be the objects, so that the other one is worse on each image, and
    compare shows all images.
    """
    objects = json.loads((folder / "coco.json").read_text())["annotations"]
    detections = [
        {k: x[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for x in objects
    ]
    (found,) = (folder / run).glob("inference/coco*/coco_instances_results.json")
    found.write_text(json.dumps(detections))


def _run(folder: Path, *command: str) -> None:
    code, printed = run_command(command, folder)
    if code:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed[-2000:]}")


def _write_dataset(folder: Path) -> None:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / "voc" / name).mkdir(parents=True)
    (folder / "voc/ImageSets/Main/all.txt").write_text("".join(f"{x}\n" for x in IMAGES))
    width, height = SIZE
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": x} for i, x in enumerate(CLASSES, start=1)]
    for number, image_id in enumerate(IMAGES, start=1):
        Image.effect_noise(SIZE, 50).convert("RGB").save(folder / f"voc/JPEGImages/{image_id}.jpg")
        text = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        content["images"].append(
            {"id": number, "file_name": f"{image_id}.jpg", "height": height, "width": width}
        )
        for class_name, (x0, y0, x1, y1) in BOXES[image_id]:
            text += (
                f"<object><name>{class_name}</name><difficult>0</difficult><bndbox>"
                f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                "</bndbox></object>"
            )
            box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1 + CLASSES.index(class_name),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        (folder / f"voc/Annotations/{image_id}.xml").write_text(f"<annotation>{text}</annotation>")
    (folder / "coco.json").write_text(json.dumps(content))


def _write_proposals(folder: Path) -> None:
    boxes = np.array([[0, 0, 30, 30], [20, 10, 90, 70], [0, 0, 96, 80]], np.float32)
    content = {
        "ids": list(IMAGES),
        "boxes": [boxes] * len(IMAGES),
        "objectness_logits": [np.zeros(len(boxes), np.float32)] * len(IMAGES),
        "bbox_mode": 0,
    }
    (folder / "proposals.pkl").write_bytes(pickle.dumps(content))
    # As MATLAB's files of Fast R-CNN have them: y0, x0, y1, x1, counted from 1.
    cells = np.empty((1, len(IMAGES)), dtype=object)
    for i in range(len(IMAGES)):
        cells[0, i] = boxes[:, [1, 0, 3, 2]] + np.array([1, 1, 0, 0], np.float32)
    savemat(folder / "boxes.mat", {"boxes": cells})
