"""
Evaluate a model, and put ways of testing it side by side.
"""

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from ..data import build_test_loader
from ..modeling import build_test_time_model
from ..modeling.test_time.options import uses_test_time_options, with_test_time_options
from ..utils import atomic_file, atomic_folder, write_json
from .build import build_evaluator

__all__ = [
    "Evaluation",
    "TimedModel",
    "describe_test",
    "evaluate_dataset",
    "evaluate_model",
    "to_results",
    "write_evaluations",
]

logger = logging.getLogger(__name__)

MAIN_METRICS = ("AP", "AP50", "AP75")


class Evaluation(NamedTuple):
    """
    What one way of testing gives on one dataset.
    """

    test: str  # how it was tested
    dataset: str
    results: dict[str, dict[str, float]]  # by task ("bbox", ...) and metric, in percent
    seconds_per_image: float


class TimedModel(nn.Module):
    """
    A model whose time is taken.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.seconds: list[float] = []  # an image, of each call

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
            float: the mean, without the first five calls, which are for warming up, as in
            :func:`inference_on_dataset`. NaN if there was none.
        """
        seconds = self.seconds[min(5, max(len(self.seconds) - 1, 0)) :]
        return sum(seconds) / len(seconds) if seconds else math.nan


def evaluate_model(cfg: CfgNode, model: nn.Module, output_dir: str) -> list[Evaluation]:
    """
    Evaluate a model on each of DATASETS.TEST, as it is. If TEST.AUG, TEST.ITERATIVE_BBOX or
    TEST.BOX_VOTING is enabled, then evaluate it with these, too.

    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        model (nn.Module): the model that it describes, with its weights.
        output_dir (str): what the evaluators write is put into its folders `inference/DATASET`,
            and `inference_TTA/DATASET`, when it is whole.

    Returns:
        list[Evaluation]: see :func:`evaluate_dataset`.
    """
    tests = {"inference": with_test_time_options(cfg, False, False)}
    if uses_test_time_options(cfg):
        tests["inference_TTA"] = cfg
    models = {folder: build_test_time_model(x, model) for folder, x in tests.items()}
    return [
        evaluate_dataset(
            test_cfg, TimedModel(models[folder]), name, os.path.join(output_dir, folder, name)
        )
        for name in cfg.DATASETS.TEST
        for folder, test_cfg in tests.items()
    ]


def evaluate_dataset(
    cfg: CfgNode, model: TimedModel, dataset_name: str, output_dir: str
) -> Evaluation:
    """
    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        model (TimedModel): a model that :func:`build_test_time_model` has made of it.
        dataset_name (str): one of DATASETS.TEST.
        output_dir (str): the folder for what the evaluator writes, with all its files or none.

    Returns:
        Evaluation: of all processes together in the main one, without results in others.
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
        str: in some words, what TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING make of a model.
    """
    test, words = cfg.TEST, []
    if test.AUG.ENABLED:
        count = len(test.AUG.MIN_SIZES)
        words.append(f"{count} scale{'s' * (count > 1)}{' and flip' * test.AUG.FLIP}")
    if test.ITERATIVE_BBOX.ENABLED:
        words.append(f"{test.ITERATIVE_BBOX.NUM_ROUNDS} rounds")
    if test.BOX_VOTING.ENABLED:
        words.append("voting")
    return ", ".join(words) or "plain"


def to_results(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """
    Returns:
        dict: as of :meth:`DefaultTrainer.test`, by dataset (if there is more than one), task and
        metric. What is not the plain model has "_TTA" at the end of its task, as in detectron2.
    """
    results: dict[str, dict[str, Any]] = {}
    for x in evaluations:
        suffix = "" if x.test == "plain" else "_TTA"
        by_task = {f"{task}{suffix}": metrics for task, metrics in x.results.items()}
        results.setdefault(x.dataset, {}).update(by_task)
    return next(iter(results.values())) if len(results) == 1 else results


def write_evaluations(evaluations: Sequence[Evaluation], output_dir: str) -> str:
    """
    Write results.json, with all metrics, and results.md, a table of the main ones.

    Returns:
        str: that table, in Markdown.
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
    )
    write_json(os.path.join(output_dir, "results.json"), [x._asdict() for x in evaluations])
    with atomic_file(os.path.join(output_dir, "results.md")) as file:
        file.write_text(table + "\n")
    return table
