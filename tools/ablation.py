#!/usr/bin/env python3
"""
The paper's ablation of what is done at test time: evaluate a detector with and without multiple
scales, and with and without iterative bounding-box regression and voting, and put all in a table.

    python tools/ablation.py --config-file configs/demo/faster_rcnn_R_18_ohem.yaml \\
        --weights output/demo/faster_rcnn_R_18_ohem/model_final.pth

A run that was stopped in any way goes on, image by image, when the same command is given again.
"""

import argparse
import csv
import json
import logging
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate
from tqdm import tqdm

from ohem_d2.checkpoint import load_model
from ohem_d2.engine import (
    InputError,
    check_inputs,
    digest,
    digest_file,
    fall_back_to_cpu,
    load_config,
)
from ohem_d2.evaluation import Evaluation, TimedModel, evaluate_dataset
from ohem_d2.modeling import ImageTooLargeError, build_test_time_model
from ohem_d2.modeling.test_time.build import with_test_time_options
from ohem_d2.utils import atomic_file
from ohem_d2.utils.partial_results import PartialResults


class Row(NamedTuple):
    name: str
    multi_scale_train: bool
    multi_scale_test: bool
    regression_and_voting: bool


ROWS = (
    Row("plain", False, False, False),
    Row("multi-scale", False, True, False),
    Row("voting", False, False, True),
    Row("multi-scale-voting", False, True, True),
    Row("multi-scale-trained", True, True, True),
)
METRICS = ("AP", "AP50", "AP75")
HEADERS = (
    "multi-scale train",
    "multi-scale test",
    "iterative box regression and voting",
    *METRICS,
    "s/image",
)


class Trial(NamedTuple):
    """
    A row of the table of a dataset.
    """

    row: Row
    dataset: str
    cfg: CfgNode
    # Of each image that is done its id, the seconds that it took, and its detections; and at the
    # end, when all are, the Evaluation.
    results: PartialResults

    def evaluation(self) -> Optional[Evaluation]:
        last = self.results.results[-1:]
        return last[0] if last and isinstance(last[0], Evaluation) else None

    def num_images_done(self) -> int:
        return len(self.results.results) - (self.evaluation() is not None)


class ResumedModel(TimedModel):
    """
    A model that knows the images that an earlier run has done, and keeps the results of the others.
    """

    def __init__(self, model: torch.nn.Module, results: PartialResults, bar: tqdm) -> None:
        super().__init__(model)
        self.results = results
        self.done = {image_id: rest for image_id, *rest in results.results}
        self.bar = bar

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (image,) = batched_inputs  # detectron2 tests on one at a time
        image_id = str(image["image_id"])
        if image_id in self.done:
            seconds, instances = self.done[image_id]
            self.seconds.append(seconds)
        else:
            (output,) = super().forward(batched_inputs)
            instances = output["instances"].to("cpu")
            self.results.append((image_id, self.seconds[-1], instances))
            self.bar.update()
        return [{"instances": instances}]


def configure(cfg: CfgNode, row: Row, weights: str) -> CfgNode:
    cfg = with_test_time_options(cfg, row.multi_scale_test, row.regression_and_voting)
    cfg.MODEL.WEIGHTS = weights
    return cfg


def digest_images(dataset: str) -> str:
    images = [
        (str(x["image_id"]), x.get("height"), x.get("width")) for x in DatasetCatalog.get(dataset)
    ]
    return digest(json.dumps(images).encode())


def describe_trial(cfg: CfgNode, dataset: str, digests: dict[str, str]) -> str:
    """
    Args:
        digests: by path or name, of the weights, the proposal files and the datasets.

    Returns:
        str: a line of JSON. The results of two trials with the same one can be mixed.
    """
    relevant = cfg.clone()
    relevant.OUTPUT_DIR = relevant.MODEL.WEIGHTS = ""
    for key in ("AUG", "ITERATIVE_BBOX", "BOX_VOTING"):
        if not cfg.TEST[key].ENABLED:
            del relevant.TEST[key]
    proposal_files = dict(zip(cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST, strict=False))
    return json.dumps(
        {
            "dataset": dataset,
            "images": digests[dataset],
            "weights": digests[cfg.MODEL.WEIGHTS],
            "proposals": digests.get(proposal_files.get(dataset, "")),
            "config": digest(relevant.dump().encode()),
        }
    )


def begin(configs: dict[Row, CfgNode], output: Path, stack: ExitStack) -> list[Trial]:
    """
    Returns:
        list[Trial]: with what earlier runs have done, whose files are open until `stack` is closed.
    """
    files = {x.MODEL.WEIGHTS for x in configs.values()}
    files.update(
        file
        for x in configs.values()
        if x.MODEL.LOAD_PROPOSALS
        for file in x.DATASETS.PROPOSAL_FILES_TEST
    )
    datasets = {name for x in configs.values() for name in x.DATASETS.TEST}
    digests = {x: digest_file(x) for x in files} | {x: digest_images(x) for x in datasets}
    trials = []
    for row, cfg in configs.items():
        for dataset in cfg.DATASETS.TEST:
            path = output / row.name / f"{dataset}.results"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                results = PartialResults(path, describe_trial(cfg, dataset, digests))
            except (OSError, ValueError) as e:
                raise InputError(f"{e}\nOr give another --output.") from e
            stack.enter_context(results)
            trials.append(Trial(row, dataset, cfg, results))
    return trials


def finish(trials: list[Trial], output: Path) -> None:
    """
    Evaluate all trials that are not done yet.
    """
    remaining = [x for x in trials if x.evaluation() is None]
    # All models before the first trial: if weights do not fit, it is found out now.
    configs = {x.cfg.MODEL.WEIGHTS: x.cfg for x in remaining}
    models = {weights: load_model(cfg) for weights, cfg in configs.items()}
    num_images = sum(len(DatasetCatalog.get(x.dataset)) for x in trials)
    num_done = sum(x.num_images_done() for x in trials)
    with tqdm(total=num_images, initial=num_done, unit="image") as bar:
        for row, dataset, cfg, results in remaining:
            bar.set_description(row.name)
            model = build_test_time_model(cfg, models[cfg.MODEL.WEIGHTS])
            folder = str(output / row.name / dataset)
            resumed = ResumedModel(model, results, bar)
            results.append(evaluate_dataset(cfg, resumed, dataset, folder))


def make_rows(trials: list[Trial], dataset: str) -> list[list[Any]]:
    """
    Returns:
        list[list[Any]]: cells of HEADERS. None for what is not done in a row, and for the results
        of a row that was not run.
    """
    evaluations = {x.row: x.evaluation() for x in trials if x.dataset == dataset}
    rows = []
    for row in ROWS:
        cells: list[Any] = ["yes" if x else None for x in row[1:]]
        evaluation = evaluations.get(row)
        if evaluation:
            cells += [evaluation.results["bbox"][x] for x in METRICS]
            cells.append(evaluation.seconds_per_image)
        rows.append(cells + [None] * (len(HEADERS) - len(cells)))
    return rows


def explain(cfg: CfgNode, args: argparse.Namespace) -> str:
    """
    Returns:
        str: what the rows are, a line for each thing that matters.
    """
    test, regression, voting = cfg.TEST, cfg.TEST.ITERATIVE_BBOX, cfg.TEST.BOX_VOTING
    nms_thresh = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
    voting_nms_thresh = nms_thresh if voting.NMS_THRESH is None else voting.NMS_THRESH
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    lines = {
        "Config": " ".join([args.config_file, *args.opts]),
        "Weights": args.weights,
        "Weights trained on multiple scales": args.multi_scale_weights
        or "none. --multi-scale-weights (of make: MULTI_SCALE_WEIGHTS) gives them, for the last "
        "row.",
        "One scale": f"shorter side {cfg.INPUT.MIN_SIZE_TEST} pixels, longer side at most "
        f"{cfg.INPUT.MAX_SIZE_TEST}",
        "Multi-scale test": f"shorter side {', '.join(map(str, test.AUG.MIN_SIZES))} pixels, "
        f"longer side at most {test.AUG.MAX_SIZE}"
        + (", each as it is and mirrored" if test.AUG.FLIP else ""),
        "Iterative box regression": f"{regression.NUM_ROUNDS} rounds, boxes of a score above "
        f"{regression.SCORE_THRESH} go into the next",
        "Voting": f"by boxes of an IoU of {voting.IOU_THRESH} or more, scoring method "
        f"{voting.SCORING_METHOD}",
        "NMS": f"at {nms_thresh}, and before voting at {voting_nms_thresh}",
        "AP": "of boxes, in percent",
        "s/image": f"the model's time, on {device}",
    }
    return "".join(f"- {name}: {text}\n" for name, text in lines.items())


def write_tables(trials: list[Trial], explanation: str, output: Path) -> str:
    """
    Write ablation.csv and ablation.md.

    Returns:
        str: what is in ablation.md.
    """
    rows = {x.dataset: make_rows(trials, x.dataset) for x in trials}
    tables = [
        f"{dataset}:\n\n"
        + tabulate(
            rows[dataset],
            HEADERS,
            tablefmt="github",
            floatfmt=("", "", "", ".1f", ".1f", ".1f", ".3f"),
            missingval="-",
        )
        for dataset in rows
    ]
    text = "\n\n".join([*tables, explanation])
    with atomic_file(output / "ablation.md") as path:
        path.write_text(text)
    with atomic_file(output / "ablation.csv") as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", *HEADERS])
        writer.writerows([dataset, *cells] for dataset in rows for cells in rows[dataset])
    return text


def run(args: argparse.Namespace) -> str:
    """
    Returns:
        str: the tables, in Markdown.

    Raises:
        ImageTooLargeError, InputError: for what cannot be used.
    """
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False  # it is about boxes
    weights = {False: args.weights, True: args.multi_scale_weights}
    configs = {
        row: configure(cfg, row, weights[row.multi_scale_train])
        for row in ROWS
        if weights[row.multi_scale_train] is not None
    }
    for x in configs.values():
        check_inputs(x, eval_only=True)

    log = args.output / "log.txt"
    with ExitStack() as stack:
        trials = begin(configs, args.output, stack)
        # Not over the bar: what is logged, and what pycocotools prints.
        logging.basicConfig(
            filename=log, level=logging.INFO, format="[%(asctime)s] %(name)s: %(message)s"
        )
        stack.enter_context(redirect_stdout(stack.enter_context(open(log, "a"))))
        finish(trials, args.output)
        return write_tables(trials, explain(cfg, args), args.output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="that the weights were trained with")
    parser.add_argument("--weights", required=True, help="the detector's, trained on one scale")
    parser.add_argument(
        "--multi-scale-weights",
        help="of the same config, trained on multiple scales (INPUT.MIN_SIZE_TRAIN), for the last "
        "row",
    )
    parser.add_argument("--output", type=Path, default=Path("output/ablation"), help="a folder")
    parser.add_argument(
        "opts",
        nargs="*",
        help="options of the config, such as TEST.BOX_VOTING.NMS_THRESH 0.3",
    )
    args = parser.parse_args()
    try:
        tables = run(args)
    except (ImageTooLargeError, InputError) as e:
        sys.exit(f"ablation.py: {e}")
    except KeyboardInterrupt:
        sys.exit(
            f"\nStopped. What is done is in {args.output}: the same command goes on from there."
        )
    print(f"{tables}\nWritten to {args.output / 'ablation.md'} and, not rounded, ablation.csv.")


if __name__ == "__main__":
    main()
