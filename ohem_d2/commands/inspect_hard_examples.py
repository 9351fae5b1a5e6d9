"""
Show what is hard in a dataset for a trained model: a page with the RoIs of largest loss, sorted by
what is wrong with each. It helps to tell hard examples from mistakes in the annotations.

    %(prog)s --config-file configs/demo/faster_rcnn_R_18_ohem.yaml \\
        MODEL.WEIGHTS output/demo/faster_rcnn_R_18_ohem/model_final.pth

A stopped run continues when the same command is given again.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from tqdm import tqdm

from ..checkpoint import load_model
from ..data import build_annotated_loader, get_annotated_dicts
from ..data.broken_images import BrokenImage
from ..data.datasets.by_path import folder_name
from ..engine import (
    InputError,
    check_inputs,
    digest,
    digest_file,
    fall_back_to_cpu,
    import_module,
    load_config,
)
from ..engine.input_checks import check_dataset
from ..evaluation import HardExampleList, find_hard_examples, write_coco_json, write_csv
from ..modeling.roi_heads import check_minable
from ..modeling.roi_heads.box_branch import box_predictors
from ..visualization.inspection import write_inspection
from .command_line import add_import_argument, exit_on_error, make_parser

SAVE_PERIOD = 30  # seconds


def choose_dataset(cfg: CfgNode, name: Optional[str]) -> str:
    """
    Make the config test on one dataset: the named one, or by default the one that it trains on.
    """
    if name is None:
        if len(cfg.DATASETS.TRAIN) != 1:
            raise InputError(
                f"DATASETS.TRAIN has {len(cfg.DATASETS.TRAIN)} datasets. Choose one with --dataset."
            )
        (name,) = cfg.DATASETS.TRAIN
    datasets = cfg.DATASETS
    files = dict(zip(datasets.TRAIN, datasets.PROPOSAL_FILES_TRAIN, strict=False))
    files |= dict(zip(datasets.TEST, datasets.PROPOSAL_FILES_TEST, strict=False))
    datasets.TEST = (name,)
    datasets.PROPOSAL_FILES_TEST = (files[name],) if name in files else ()
    return name


def load_records(cfg: CfgNode, dataset: str) -> list[dict[str, Any]]:
    records = get_annotated_dicts(cfg, [dataset], is_train=False)
    if not all("annotations" in x for x in records):
        raise InputError(f"{dataset} has images without annotations.")
    return records


def load_detector(cfg: CfgNode) -> GeneralizedRCNN:
    model = load_model(cfg)
    if not isinstance(model, GeneralizedRCNN):
        raise InputError(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no RoIs.")
    try:
        check_minable(box_predictors(model.roi_heads)[0])
    except ValueError as e:
        raise InputError(str(e)) from e
    return model


def describe(cfg: CfgNode, records: Sequence[dict[str, Any]], nms_thresh: float) -> dict[str, Any]:
    """
    Returns:
        dict: everything that the examples depend on.
    """
    relevant = cfg.clone()
    relevant.OUTPUT_DIR = relevant.MODEL.WEIGHTS = ""
    relevant.DATALOADER.NUM_WORKERS = 0
    keys = ("category_id", "bbox", "iscrowd")
    annotations = [
        [x["file_name"], [[y.get(k) for k in keys] for y in x["annotations"]]] for x in records
    ]
    return {
        "dataset": cfg.DATASETS.TEST[0],
        "weights": digest_file(cfg.MODEL.WEIGHTS),
        "config": digest(relevant.dump().encode()),
        "annotations": digest(json.dumps(annotations, default=list).encode()),
        "proposals": [digest_file(x) for x in cfg.DATASETS.PROPOSAL_FILES_TEST],
        "nms_thresh": nms_thresh,
    }


def find(
    cfg: CfgNode,
    model: GeneralizedRCNN,
    records: list[dict[str, Any]],
    examples: HardExampleList,
    nms_thresh: float,
) -> None:
    """
    Look for hard examples in the remaining images.
    """
    remaining = records[examples.num_images :]
    with (
        inference_context(model),
        tqdm(total=len(records), initial=examples.num_images, unit="image") as bar,
    ):
        saved = time.monotonic()
        for inputs in build_annotated_loader(cfg, remaining, with_broken=True):
            for x in inputs:
                if isinstance(x, BrokenImage):
                    examples.add_broken(x.text)
                else:
                    found = find_hard_examples(
                        model, x, nms_thresh, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
                    )
                    examples.add(found)
                bar.update()
            if time.monotonic() - saved > SAVE_PERIOD:
                examples.save()
                saved = time.monotonic()
    examples.save()


def write(
    output: Path,
    cfg: CfgNode,
    records: Sequence[dict[str, Any]],
    examples: HardExampleList,
    description: Mapping[str, str],
) -> None:
    dataset = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(dataset)
    by_name = {x["file_name"]: x for x in records}
    hardest = examples.hardest()
    write_csv(output / "hard_examples.csv", hardest, metadata.thing_classes)
    image_root = metadata.get("image_root") or os.path.commonpath(
        [os.path.dirname(x) for x in by_name]
    )
    write_coco_json(
        output / "hard_examples_coco.json", hardest, by_name, metadata.thing_classes, image_root
    )
    with tqdm(total=len({x.file_name for x in hardest}), unit="image") as bar:
        write_inspection(
            output,
            hardest,
            by_name,
            metadata.thing_classes,
            image_root,
            examples.num_found,
            examples.broken,
            f"Hard examples of {dataset}",
            description,
            bar.update,
        )


def run(args: argparse.Namespace) -> Path:
    """
    Returns:
        Path: the page.
    """
    if not 0 <= args.nms_thresh <= 1:
        raise InputError(f"--nms-thresh must be from 0 to 1, not {args.nms_thresh}.")
    if args.max_examples < 1:
        raise InputError(f"--max-examples must be at least 1, not {args.max_examples}.")
    import_module(args.module)
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    dataset = choose_dataset(cfg, args.dataset)
    check_dataset(dataset, "--dataset" if args.dataset else "DATASETS.TRAIN")
    check_inputs(cfg, eval_only=True, evaluates=False)
    records = load_records(cfg, dataset)
    output = args.output or Path(cfg.OUTPUT_DIR, "hard_examples", folder_name(dataset))
    file = output / "hard_examples.json"
    # Existing pictures are not written again, so they must belong to the list.
    if not file.exists() and any((output / x).exists() for x in ("crops", "images")):
        raise InputError(
            f"{output} has pictures, but not the {file.name} that they belong to. Choose another "
            "--output."
        )
    output.mkdir(parents=True, exist_ok=True)
    description = describe(cfg, records, args.nms_thresh)
    examples = HardExampleList(file, description, args.max_examples)
    print("1/2 Looking for hard examples", flush=True)
    if examples.num_images < len(records):
        find(cfg, load_detector(cfg), records, examples, args.nms_thresh)
    print("2/2 Writing pictures", flush=True)
    shown = {
        "Model": cfg.MODEL.WEIGHTS,
        "Config": args.config_file,
        "Dataset": f"{dataset}, {len(records)} images",
        "Shown": f"at most {args.max_examples} of each kind; of RoIs with an IoU above "
        f"{args.nms_thresh}, the one with the largest loss",
    }
    write(output, cfg, records, examples, shown)
    if examples.broken:
        print(f"{len(examples.broken)} images cannot be read. The page lists them.")
    return output / "index.html"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--dataset", help="default: the one in DATASETS.TRAIN")
    parser.add_argument("--output", type=Path, help="default: OUTPUT_DIR/hard_examples/DATASET")
    parser.add_argument("--max-examples", type=int, default=1000, help="of a kind (default: 1000)")
    parser.add_argument(
        "--nms-thresh",
        type=float,
        default=0.3,
        help="of RoIs with a higher IoU, show the hardest only (default: 0.3); 0.7, as in "
        "training, shows more duplicates",
    )
    add_import_argument(parser)
    parser.add_argument("opts", nargs="*", help="config options, including MODEL.WEIGHTS")
    args = parser.parse_args()
    with exit_on_error():
        page = run(args)
    print(f"Open {page}")
