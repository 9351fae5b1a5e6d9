"""
Evaluate a model, and compare ways of testing it in one table.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from ..data import build_test_loader
from ..data.datasets.by_path import folder_name
from ..modeling import build_test_time_model
from ..utils import atomic_file, atomic_folder, write_json
from .build import build_evaluator

__all__ = [
    "Evaluation",
    "TimedModel",
    "describe_test",
    "evaluate_dataset",
    "evaluate_model",
    "write_evaluations",
]

logger = logging.getLogger(__name__)

MAIN_METRICS = ("AP", "AP50", "AP75")
PLAIN = "plain"


class Evaluation(NamedTuple):
    """
    The results of one way of testing on one dataset.
    """

    test: str  # see describe_test()
    dataset: str
    results: dict[str, dict[str, float]]  # by task ("bbox", ...) and metric, in percent
    seconds_per_image: float


class TimedModel(nn.Module):
    """
    A model that measures its time.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.seconds: list[float] = []  # per image, for each call

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        start = time.perf_counter()
        outputs = self.model(batched_inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append((time.perf_counter() - start) / len(batched_inputs))
        return outputs

    def seconds_per_image(self) -> float:
        """
        Returns:
            float: the mean over all calls but the first five, which warm up, as in
            :func:`inference_on_dataset`. NaN if there were none.
        """
        seconds = self.seconds[min(5, max(len(self.seconds) - 1, 0)) :]
        return sum(seconds) / len(seconds) if seconds else math.nan


def evaluate_model(
    cfg: CfgNode,
    model: nn.Module,
    build_evaluator: Callable[[str, str], DatasetEvaluator] = build_evaluator,
) -> dict[str, Any]:
    """
    Evaluate a model on DATASETS.TEST, with what TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING
    enable. Write to OUTPUT_DIR:

    - `inference/DATASET`, or `inference_TTA/DATASET` if any of the three is enabled: the files of
      the evaluator.
    - results.json with all metrics, and results.md with a table of the main ones. The plain model
      starts them anew; other tests add to them.

    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        model (nn.Module): the model that it describes, with its weights.
        build_evaluator (callable): takes the name of a dataset and a folder.

    Returns:
        dict: as :meth:`DefaultTrainer.test` returns, by dataset (if there are several), task and
        metric. As in detectron2, tasks end with "_TTA" for all but the plain model.
    """
    test = describe_test(cfg)
    folder, suffix = ("inference", "") if test == PLAIN else ("inference_TTA", "_TTA")
    model = build_test_time_model(cfg, model)
    evaluations = [
        evaluate_dataset(
            cfg,
            TimedModel(model),
            name,
            os.path.join(cfg.OUTPUT_DIR, folder, folder_name(name)),
            build_evaluator,
        )
        for name in cfg.DATASETS.TEST
    ]
    if evaluations and comm.is_main_process():
        old = [] if test == PLAIN else _read_evaluations(cfg.OUTPUT_DIR)
        old = [x for x in old if x.test != test]
        table = write_evaluations(old + evaluations, cfg.OUTPUT_DIR)
        logger.info(f"Results (all metrics in {cfg.OUTPUT_DIR}/results.json):\n{table}")
    results = {
        x.dataset: {f"{task}{suffix}": metrics for task, metrics in x.results.items()}
        for x in evaluations
    }
    return next(iter(results.values())) if len(results) == 1 else results


def evaluate_dataset(
    cfg: CfgNode,
    model: TimedModel,
    dataset_name: str,
    output_dir: str,
    build_evaluator: Callable[[str, str], DatasetEvaluator] = build_evaluator,
) -> Evaluation:
    """
    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        model (TimedModel): around the model from :func:`build_test_time_model`.
        dataset_name (str): one of DATASETS.TEST.
        output_dir (str): the folder for the files of the evaluator. They replace those of an
            earlier evaluation when all are written.
        build_evaluator (callable): takes the name of a dataset and a folder.

    Returns:
        Evaluation: of all processes, in the main one. Others return one without results.
    """
    loader = build_test_loader(cfg, dataset_name)
    with ExitStack() as stack:
        folder = None
        if comm.is_main_process():
            folder = str(stack.enter_context(atomic_folder(output_dir)))
        folder = comm.all_gather(folder)[0]
        results = inference_on_dataset(model, loader, build_evaluator(dataset_name, folder))
    if comm.is_main_process():
        logger.info(f"Evaluation results for {dataset_name} ({describe_test(cfg)}) in csv format:")
        print_csv_format(results)
    return Evaluation(describe_test(cfg), dataset_name, results, model.seconds_per_image())


def describe_test(cfg: CfgNode) -> str:
    """
    Returns:
        str: what TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING enable, such as "2 scales and
        flip, voting", or "plain".
    """
    test, words = cfg.TEST, []
    if test.AUG.ENABLED:
        count = len(test.AUG.MIN_SIZES)
        words.append(f"{count} scale{'s' * (count > 1)}{' and flip' * test.AUG.FLIP}")
    if test.ITERATIVE_BBOX.ENABLED:
        words.append(f"{test.ITERATIVE_BBOX.NUM_ROUNDS} rounds")
    if test.BOX_VOTING.ENABLED:
        words.append("voting")
    return ", ".join(words) or PLAIN


def write_evaluations(evaluations: Sequence[Evaluation], output_dir: str) -> str:
    """
    Write results.json, with all metrics, and results.md, a table of the main ones.

    Returns:
        str: the table, in Markdown.
    """
    os.makedirs(output_dir, exist_ok=True)
    table = tabulate(
        [
            [x.dataset, task, x.test, *map(metrics.get, MAIN_METRICS), x.seconds_per_image]
            for x in evaluations
            for task, metrics in x.results.items()
        ],
        headers=["dataset", "task", "test", *MAIN_METRICS, "s / image"],
        tablefmt="github",
        floatfmt=("", "", "", ".1f", ".1f", ".1f", ".3f"),
        missingval="nan",
    )
    write_json(os.path.join(output_dir, "results.json"), [x._asdict() for x in evaluations])
    with atomic_file(os.path.join(output_dir, "results.md")) as file:
        file.write_text(table + "\n")
    return table


def _read_evaluations(output_dir: str) -> list[Evaluation]:
    path = os.path.join(output_dir, "results.json")
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return [Evaluation(**x) for x in json.load(f)]
