"""
Compare two trainings on one page: curves, AP, kinds of errors, and the detections of
both on the images where they differ most. Of several seeds of each, AP is the mean.

    %(prog)s output/demo/faster_rcnn_R_18 output/demo/faster_rcnn_R_18_ohem
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import yaml
from detectron2.data import DatasetCatalog

from ..data.datasets.by_path import folder_name, is_path
from ..engine import InputError, import_module
from ..engine.input_checks import check_dataset
from ..evaluation.compared_dataset import (
    COCO_RESULTS,
    ComparedDataset,
    read_compared_dataset,
)
from ..evaluation.detection_files import TASKS
from ..evaluation.testing import PLAIN
from ..utils import atomic_folder, read_metrics
from ..visualization.comparison import TrainedRun, write_comparison
from .command_line import add_import_argument, exit_on_error, make_parser


def compare(
    folders: Sequence[Path], output: Path, num_images: int, score_thresh: Optional[float]
) -> list[str]:
    """
    Args:
        folders: of two runs, or of several seeds of two recipes.

    Returns:
        list[str]: what the page says first, a line for each dataset.

    Raises:
        InputError: for what cannot be compared.
    """
    if output.exists():
        raise InputError(f"{output} already exists. Move it away, or choose another --output.")
    if num_images < 0:
        raise InputError(f"--images must be at least 0, not {num_images}.")
    if score_thresh is not None and not 0 <= score_thresh <= 1:
        raise InputError(f"--score-thresh must be from 0 to 1, not {score_thresh}.")
    runs = [read_run(*x) for x in zip(folders, name_runs(folders), strict=True)]
    runs_a, runs_b = find_recipes(runs)
    files_a, files_b = map(find_detections, (runs_a[0], runs_b[0]))
    names = sorted(files_a.keys() & files_b.keys())
    if not names:
        raise InputError(
            f"The runs were not evaluated on the same dataset. {runs_a[0].folder}: "
            f"{', '.join(files_a) or 'none'}; {runs_b[0].folder}: {', '.join(files_b) or 'none'}. "
            "ohem-d2 train --eval-only evaluates on DATASETS.TEST."
        )
    sigmas = runs_a[0].config["TEST"]["KEYPOINT_OKS_SIGMAS"]
    datasets = [read_dataset(x, (files_a[x], files_b[x]), sigmas) for x in names]
    with atomic_folder(output) as folder:
        return write_comparison(folder, (runs_a, runs_b), datasets, num_images, score_thresh)


def name_runs(folders: Sequence[Path]) -> list[str]:
    """
    Returns:
        list[str]: the ends of the paths of the folders, as short as they differ.
    """
    parts = [x.resolve().parts for x in folders]
    for i, x in enumerate(parts):
        if x in parts[:i]:
            raise InputError(f"{folders[parts.index(x)]} and {folders[i]} are the same run.")
    count = 1
    while len({x[-count:] for x in parts}) < len(parts):
        count += 1
    return ["/".join(x[-count:]) for x in parts]


def find_recipes(runs: Sequence[TrainedRun]) -> tuple[list[TrainedRun], list[TrainedRun]]:
    """
    Returns:
        A and B: the two runs, or those of each recipe if there are more. Runs of a recipe differ in
        their seed and their folder alone.
    """
    if len(runs) == 2:
        return [runs[0]], [runs[1]]
    recipes: dict[str, list[TrainedRun]] = {}
    for run in runs:
        rest = {k: x for k, x in run.config.items() if k not in ("SEED", "OUTPUT_DIR")}
        recipes.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    if len(recipes) != 2:
        listed = "; ".join(" ".join(str(y.folder) for y in x) for x in recipes.values())
        raise InputError(
            f"The {len(runs)} runs have {len(recipes)} configs, apart from SEED and OUTPUT_DIR: "
            f"{listed}. Give two runs, or several seeds of two recipes."
        )
    runs_a, runs_b = recipes.values()
    return runs_a, runs_b


def read_run(folder: Path, name: str) -> TrainedRun:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the OUTPUT_DIR of a training.")
    metrics = read_metrics(folder)
    if not any("total_loss" in x for x in metrics):
        raise InputError(
            f"{folder} has no metrics.json with the losses of a training. Give the OUTPUT_DIR "
            "of a training, of ohem-d2 train without --eval-only."
        )
    config = _read(
        folder / "config.yaml",
        yaml.safe_load,
        "ohem-d2 train writes it, and so does detectron2's default_setup",
    )
    _check_run_config(folder / "config.yaml", config)
    file = folder / "results.json"
    if not file.exists() and (results := results_of_metrics(metrics, config)):
        return TrainedRun(name, folder, config, metrics, results)
    remedy = (
        "ohem-d2 train writes it at the end of the training, or with --eval-only "
        f"MODEL.WEIGHTS {folder}/model_final.pth OUTPUT_DIR {folder}"
    )
    results = _read(file, json.load, remedy)
    _check_results(file, results)
    return TrainedRun(name, folder, config, metrics, results)


def _check_run_config(file: Path, config: Any) -> None:
    try:
        are_there = isinstance(config["DATASETS"]["TEST"], (list, tuple))
        are_there &= isinstance(config["TEST"]["KEYPOINT_OKS_SIGMAS"], (list, tuple))
    except (KeyError, TypeError):
        are_there = False
    if not are_there:
        raise InputError(
            f"{file} is not the config of a training: it has no list DATASETS.TEST, or no "
            "TEST.KEYPOINT_OKS_SIGMAS."
        )


def _check_results(file: Path, results: Any) -> None:
    """
    Raises:
        InputError: if it is not the content of a results.json.
    """
    try:
        if not isinstance(results, list):
            raise TypeError
        for x in results:
            is_text = isinstance(x["test"], str) and isinstance(x["dataset"], str)
            values = [value for task in x["results"].values() for value in task.values()]
            # An AP that does not exist is null.
            if not is_text or not all(isinstance(y, (int, float, type(None))) for y in values):
                raise TypeError
    except (AttributeError, KeyError, TypeError) as e:
        raise InputError(
            f'{file} is not a list of tests, each with "test", "dataset" and "results": a dict of '
            "numbers for each task. ohem-d2 train writes it."
        ) from e


def results_of_metrics(
    metrics: list[dict[str, float]], config: dict[str, Any]
) -> list[dict[str, Any]]:
    """
    Returns:
        list[dict]: what a trainer that has no results.json, such as detectron2's DefaultTrainer,
        logs of its last evaluation, in the form of results.json.
    """
    tests = config["DATASETS"]["TEST"]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for line in metrics:  # later evaluations replace earlier ones
        for key, value in line.items():
            # "bbox/AP50", after the dataset if there are several.
            dataset, _, rest = key.rpartition("/")[0].rpartition("/")
            dataset = dataset or (tests[0] if len(tests) == 1 else "")
            if dataset in tests and rest in TASKS:
                tasks = found.setdefault(dataset, {})
                tasks.setdefault(rest, {})[key.rpartition("/")[2]] = value
    return [{"dataset": k, "test": PLAIN, "results": x} for k, x in found.items()]


def _read(file: Path, load: Any, remedy: str) -> Any:
    try:
        with open(file) as f:
            return load(f)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: {remedy}.") from None
    except (ValueError, yaml.YAMLError) as e:
        raise InputError(f"{file} cannot be read: {e}") from e


def find_detections(run: TrainedRun) -> dict[str, Path]:
    """
    Returns:
        dict[str, Path]: by dataset, the folder of a run's detections on it: one in `inference`, or
        `inference` itself, where many a DefaultTrainer's evaluator writes.
    """
    tests = run.config["DATASETS"]["TEST"]
    names = {folder_name(x): x for x in (*DatasetCatalog.list(), *tests)}
    root = run.folder / "inference"
    found = {names.get(x.name, x.name): x for x in root.glob("*") if x.is_dir()}
    if len(tests) == 1 and (root / COCO_RESULTS).is_file():
        found.setdefault(tests[0], root)
    return found


def read_dataset(
    name: str, folders: tuple[Path, Path], keypoint_sigmas: Sequence[float]
) -> ComparedDataset:
    """
    Args:
        folders: of the detections of each run.

    Returns:
        ComparedDataset: the images of a dataset, with their objects and both runs' detections.
    """
    if name not in DatasetCatalog.list() and not is_path(name):
        raise InputError(
            f"{name}, which both runs were evaluated on, is not registered. Name the Python module "
            "that registers it with --import."
        )
    check_dataset(name, str(folders[0]))
    return read_compared_dataset(name, folders, keypoint_sigmas)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="the OUTPUT_DIR of a training: of two, or of several seeds of two recipes",
    )
    parser.add_argument("--output", type=Path, default=Path("output/compare"), help="a new folder")
    parser.add_argument(
        "--images",
        type=int,
        default=24,
        help="show this many images of each dataset, half with fewer errors of A and half of B "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--score-thresh",
        type=float,
        help="show detections with at least this score (default: for each run, the score that "
        "maximizes F1, because scores of two models are not comparable)",
    )
    add_import_argument(parser)
    args = parser.parse_args()
    with exit_on_error():
        import_module(args.module)
        if len(args.runs) < 2:
            raise InputError("One run is not enough to compare.")
        lines = compare(args.runs, args.output, args.images, args.score_thresh)
    print(*lines, sep="\n")
    print(f"Open {args.output / 'index.html'}")
