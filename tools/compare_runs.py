#!/usr/bin/env python3
"""
Compare two runs of train_net.py on one page: curves, AP, kinds of errors, and the detections of
both on the images where they differ most.

    python tools/compare_runs.py output/demo/faster_rcnn_R_18 output/demo/faster_rcnn_R_18_ohem
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Optional

import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

import ohem_d2  # noqa: F401  (registers the datasets)
from ohem_d2.data import handle_difficult_objects
from ohem_d2.engine import InputError, import_module
from ohem_d2.engine.input_checks import check_dataset
from ohem_d2.evaluation.detection_files import (
    Detection,
    check_image_ids,
    read_coco_detections,
    read_voc_detections,
)
from ohem_d2.utils import atomic_folder, read_metrics
from ohem_d2.visualization.comparison import (
    ComparedDataset,
    ComparedImage,
    TrainedRun,
    write_comparison,
)

ROOT = Path(__file__).resolve().parent.parent


def compare(
    folders: tuple[Path, Path], output: Path, num_images: int, score_thresh: Optional[float]
) -> None:
    """
    Raises:
        InputError: for what cannot be compared.
    """
    if output.exists():
        raise InputError(f"{output} is there already. Move it away, or give another --output.")
    if num_images < 0:
        raise InputError(f"--images is {num_images}: it has to be 0 or more.")
    if score_thresh is not None and not 0 <= score_thresh <= 1:
        raise InputError(f"--score-thresh is {score_thresh}: it has to be from 0 to 1.")
    runs = tuple(map(read_run, folders, name_runs(*folders)))
    names = find_datasets(*folders)
    try:
        datasets = [read_dataset(name, folders) for name in names]
        with atomic_folder(output) as folder:
            write_comparison(folder, runs, datasets, num_images, score_thresh)
    except ValueError as e:
        raise InputError(str(e)) from e


def name_runs(a: Path, b: Path) -> list[str]:
    """
    Returns:
        list[str]: the names of the folders, with those that they are in as far as that tells them
        apart.
    """
    parts = [x.resolve().parts for x in (a, b)]
    if parts[0] == parts[1]:
        raise InputError(f"{a} is {b}: there have to be two runs.")
    count = 1
    while parts[0][-count:] == parts[1][-count:]:
        count += 1
    return ["/".join(x[-count:]) for x in parts]


def read_run(folder: Path, name: str) -> TrainedRun:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. It has to be the OUTPUT_DIR of a training.")
    metrics = read_metrics(folder)
    if not any("total_loss" in x for x in metrics):
        raise InputError(
            f"{folder} has no metrics.json with the losses of a training. It has to be the "
            "OUTPUT_DIR of train_net.py without --eval-only."
        )
    return TrainedRun(
        name,
        folder,
        _read(folder / "config.yaml", yaml.safe_load, "train_net.py writes it"),
        metrics,
        _read(
            folder / "results.json",
            json.load,
            "train_net.py writes it at the end of the training, or with --eval-only "
            f"MODEL.WEIGHTS {folder}/model_final.pth OUTPUT_DIR {folder}",
        ),
    )


def _read(file: Path, load: Any, remedy: str) -> Any:
    try:
        with open(file) as f:
            return load(f)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: {remedy}.") from None
    except (ValueError, yaml.YAMLError) as e:
        raise InputError(f"{file} cannot be read: {e}") from e


def find_datasets(a: Path, b: Path) -> list[str]:
    """
    Returns:
        list[str]: the datasets whose detections both runs have left.
    """
    of_a, of_b = ({x.name for x in folder.glob("inference/*") if x.is_dir()} for folder in (a, b))
    if not of_a & of_b:
        raise InputError(
            f"There is no dataset that both runs were evaluated on. In {a}/inference: "
            f"{', '.join(sorted(of_a)) or 'none'}; in {b}/inference: "
            f"{', '.join(sorted(of_b)) or 'none'}. train_net.py --eval-only evaluates on "
            "DATASETS.TEST."
        )
    return sorted(of_a & of_b)


def read_dataset(name: str, folders: tuple[Path, Path]) -> ComparedDataset:
    """
    The images of a dataset, with their objects and the detections of both runs.

    Raises:
        ValueError: if something is missing or broken.
    """
    if name not in DatasetCatalog.list():
        raise InputError(
            f"{name}, which both runs were evaluated on, is not registered. --import names the "
            "Python module that registers it."
        )
    check_dataset(name, f"{folders[0]}/inference")
    records = handle_difficult_objects(DatasetCatalog.get(name), [name], "ignore")
    detections = [read_detections(name, x / "inference" / name) for x in folders]
    image_ids = {str(x["image_id"]) for x in records}
    for folder, of_run in zip(folders, detections, strict=True):
        check_image_ids(of_run, image_ids, f"{folder}/inference/{name}")
    return ComparedDataset(
        name,
        MetadataCatalog.get(name).thing_classes,
        [
            to_image(x, [of_run.get(str(x["image_id"]), []) for of_run in detections])
            for x in records
        ],
    )


def read_detections(name: str, folder: Path) -> dict[str, list[Detection]]:
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "pascal_voc":
        return read_voc_detections(folder, metadata.split, metadata.thing_classes)
    return read_coco_detections(folder / "coco_instances_results.json", metadata)


def to_image(record: dict[str, Any], detections: list[list[Detection]]) -> ComparedImage:
    size = (record["height"], record["width"])
    objects, ignored = (
        [x for x in record["annotations"] if bool(x.get("iscrowd", 0)) == is_crowd]
        for is_crowd in (False, True)
    )
    of_a, of_b = (
        Instances(
            size,
            pred_boxes=to_boxes([x.box for x in of_run]),
            scores=torch.tensor([x.score for x in of_run], dtype=torch.float32),
            pred_classes=torch.tensor([x.category for x in of_run], dtype=torch.int64),
        )
        for of_run in detections
    )
    return ComparedImage(
        record["file_name"],
        *size,
        Instances(
            size,
            gt_boxes=to_boxes([_xyxy(x) for x in objects]),
            gt_classes=torch.tensor([x["category_id"] for x in objects], dtype=torch.int64),
        ),
        to_boxes([_xyxy(x) for x in ignored]),
        (of_a, of_b),
    )


def to_boxes(boxes: list[list[float]]) -> Boxes:
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def _xyxy(annotation: dict[str, Any]) -> list[float]:
    return BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for letter in "ab":
        parser.add_argument(
            f"run_{letter}", type=Path, help="a folder that train_net.py has written"
        )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "compare", help="a new folder"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=24,
        help="how many images of each dataset to show, half of them with A ahead and half with B; "
        "by default %(default)s",
    )
    parser.add_argument(
        "--score-thresh",
        type=float,
        help="show detections from this score on; by default each run's own one with the largest "
        "F1, as the same score does not mean the same in two models",
    )
    parser.add_argument(
        "--import",
        dest="module",
        help="a Python module that registers the datasets, such as my_datasets",
    )
    args = parser.parse_args()
    try:
        if args.module:
            import_module(args.module)
        compare((args.run_a, args.run_b), args.output, args.images, args.score_thresh)
    except InputError as e:
        sys.exit(f"compare_runs.py: {e}")
    print(f"Open {args.output / 'index.html'}")


if __name__ == "__main__":
    main()
