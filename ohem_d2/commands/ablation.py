"""
The paper's test-time ablation: a table of a detector's AP with and without multiple scales, and
with and without iterative bounding-box regression and voting.

    %(prog)s --config-file demo/faster_rcnn_R_18_ohem.yaml \\
        --weights output/demo/faster_rcnn_R_18_ohem/model_final.pth

A stopped run continues, image by image, when the same command is given again.
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
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from tqdm import tqdm

from ..checkpoint import load_model
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
from ..evaluation import Evaluation, TimedModel, evaluate_dataset
from ..modeling import ImageTooLargeError, build_test_time_model
from ..modeling.test_time.options import with_test_time_options
from ..utils import atomic_file
from ..utils.partial_results import PartialResults
from .command_line import add_import_argument, exit_on_error, make_parser


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
    # For each image that is done its id, its seconds, its size and the fields of its detections. At
    # the end what is in the Evaluation, in a dict.
    results: PartialResults

    def evaluation(self) -> Optional[Evaluation]:
        last = self.results.results[-1:]
        return Evaluation(**last[0]) if last and isinstance(last[0], dict) else None

    def num_images_done(self) -> int:
        return len(self.results.results) - (self.evaluation() is not None)


class ResumedModel(TimedModel):
    """
    A model that returns an earlier run's results where there are any, and saves new ones.
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
            seconds, size, fields = self.done[image_id]
            self.seconds.append(seconds)
            instances = Instances(
                tuple(size), **{k: torch.from_numpy(x) for k, x in fields.items()}
            )
            instances.pred_boxes = Boxes(instances.pred_boxes)
        else:
            (output,) = super().forward(batched_inputs)
            instances = output["instances"].to("cpu")
            fields = {**instances.get_fields(), "pred_boxes": instances.pred_boxes.tensor}
            arrays = {k: x.numpy() for k, x in fields.items()}
            self.results.append((image_id, self.seconds[-1], instances.image_size, arrays))
            self.bar.update()
        return [{"instances": instances}]


def digest_images(dataset: str) -> str:
    images = [
        (str(x["image_id"]), x.get("height"), x.get("width")) for x in DatasetCatalog.get(dataset)
    ]
    return digest(json.dumps(images).encode())


def describe_trial(cfg: CfgNode, dataset: str, digests: dict[str, str]) -> str:
    """
    Args:
        digests: of the weights, proposal files and datasets, by path or name.

    Returns:
        str: a line of JSON. Results of trials with equal descriptions can be combined.
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
        list[Trial]: with the results of earlier runs. Their files stay open until `stack` closes.
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
            path = output / row.name / f"{folder_name(dataset)}.results"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                results = PartialResults(path, describe_trial(cfg, dataset, digests))
            except (OSError, ValueError) as e:
                raise InputError(f"{e}\nOr choose another --output.") from e
            stack.enter_context(results)
            trials.append(Trial(row, dataset, cfg, results))
    return trials


def finish(trials: list[Trial], output: Path) -> None:
    """
    Evaluate the remaining trials.
    """
    remaining = [x for x in trials if x.evaluation() is None]
    # All models before the first trial, to find out now if weights do not fit.
    configs = {x.cfg.MODEL.WEIGHTS: x.cfg for x in remaining}
    models = {weights: load_model(cfg) for weights, cfg in configs.items()}
    num_images = sum(len(DatasetCatalog.get(x.dataset)) for x in trials)
    num_done = sum(x.num_images_done() for x in trials)
    with tqdm(total=num_images, initial=num_done, unit="image") as bar:
        for row, dataset, cfg, results in remaining:
            bar.set_description(row.name)
            model = build_test_time_model(cfg, models[cfg.MODEL.WEIGHTS])
            folder = str(output / row.name / folder_name(dataset))
            resumed = ResumedModel(model, results, bar)
            results.append(evaluate_dataset(cfg, resumed, dataset, folder)._asdict())


def make_rows(trials: list[Trial], dataset: str) -> list[list[Any]]:
    """
    Returns:
        list[list[Any]]: the cells under HEADERS. None for what a row leaves out, and for results
        that are missing.
    """
    evaluations = {x.row: x.evaluation() for x in trials if x.dataset == dataset}
    rows = []
    for row in ROWS:
        cells: list[Any] = ["yes" if x else None for x in row[1:]]
        evaluation = evaluations.get(row)
        if evaluation:
            metrics = evaluation.results.get("bbox", {})  # none without public annotations
            cells += [metrics.get(x) for x in METRICS]
            cells.append(evaluation.seconds_per_image)
        rows.append(cells + [None] * (len(HEADERS) - len(cells)))
    return rows


def explain(cfg: CfgNode, args: argparse.Namespace) -> str:
    """
    Returns:
        str: a line for each setting that the rows depend on.
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
        or "none. The last row needs them: --multi-scale-weights (make: MULTI_SCALE_WEIGHTS).",
        "One scale": f"shorter side {cfg.INPUT.MIN_SIZE_TEST} pixels, longer side at most "
        f"{cfg.INPUT.MAX_SIZE_TEST}",
        "Multi-scale test": f"shorter side {', '.join(map(str, test.AUG.MIN_SIZES))} pixels, "
        f"longer side at most {test.AUG.MAX_SIZE}"
        + (", with and without mirroring" if test.AUG.FLIP else ""),
        "Iterative box regression": f"{regression.NUM_ROUNDS} rounds, the next with boxes that "
        f"score above {regression.SCORE_THRESH}",
        "Voting": f"by boxes with an IoU of at least {voting.IOU_THRESH}, scoring method "
        f"{voting.SCORING_METHOD}",
        "NMS": f"at {nms_thresh}, and before voting at {voting_nms_thresh}",
        "AP": "of boxes, in percent",
        "s/image": f"time of the model on {device}",
    }
    return "".join(f"- {name}: {text}\n" for name, text in lines.items())


def write_tables(trials: list[Trial], explanation: str, output: Path) -> str:
    """
    Write ablation.csv and ablation.md.

    Returns:
        str: the content of ablation.md.
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
        ImageTooLargeError, InputError: if the input cannot be used.
    """
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False  # the table is about boxes
    weights = {False: args.weights, True: args.multi_scale_weights}
    configs = {
        row: with_test_time_options(cfg, row.multi_scale_test, row.regression_and_voting)
        for row in ROWS
        if weights[row.multi_scale_train] is not None and (args.row is None or row.name in args.row)
    }
    if not configs:
        raise InputError(f"--row {args.row[0]} needs --multi-scale-weights.")
    for row, row_cfg in configs.items():
        row_cfg.MODEL.WEIGHTS = weights[row.multi_scale_train]
        check_inputs(row_cfg, eval_only=True)

    log = args.output / "log.txt"
    with ExitStack() as stack:
        trials = begin(configs, args.output, stack)
        # Logs and the output of pycocotools would disturb the progress bar.
        logging.basicConfig(
            filename=log, level=logging.INFO, format="[%(asctime)s] %(name)s: %(message)s"
        )
        stack.enter_context(redirect_stdout(stack.enter_context(open(log, "a"))))
        finish(trials, args.output)
        return write_tables(trials, explain(cfg, args), args.output)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="the config of the weights")
    parser.add_argument("--weights", required=True, help="a detector trained on one scale")
    parser.add_argument(
        "--multi-scale-weights",
        help="the detector trained on multiple scales (INPUT.MIN_SIZE_TRAIN), for the last row",
    )
    names = [x.name for x in ROWS]
    parser.add_argument(
        "--row",
        action="append",
        choices=names,
        metavar="ROW",
        help=f"leave out the others; more than one can be given: {', '.join(names)}",
    )
    parser.add_argument("--output", type=Path, default=Path("output/ablation"), help="a folder")
    parser.add_argument(
        "opts",
        nargs="*",
        help="config options, such as TEST.BOX_VOTING.NMS_THRESH 0.3",
    )
    add_import_argument(parser)
    args = parser.parse_args()
    try:
        with exit_on_error(ImageTooLargeError):
            import_module(args.module)
            tables = run(args)
    except KeyboardInterrupt:
        sys.exit(f"\nStopped. The same command continues from what is saved in {args.output}.")
    print(f"{tables}\nWritten to {args.output / 'ablation.md'} and, unrounded, ablation.csv.")
