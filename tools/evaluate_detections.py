#!/usr/bin/env python3
"""
Evaluate the detections in files without a model: a json file of COCO's results, or a folder of
PASCAL VOC's comp4 files.

    python tools/evaluate_detections.py voc_2007_test output/inference/voc_2007_test
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

from tabulate import tabulate

import ohem_d2  # noqa: F401  (registers the datasets)
from ohem_d2.engine import InputError, import_module
from ohem_d2.engine.input_checks import check_dataset
from ohem_d2.evaluation import build_evaluator, evaluate_detections
from ohem_d2.utils import atomic_folder, write_json

Results = dict[str, dict[str, float]]


def evaluate(dataset: str, detections: Path, output: Optional[Path]) -> Results:
    """
    Returns:
        dict[str, dict[str, float]]: by task ("bbox", ...) and metric, in percent.

    Raises:
        InputError: for what cannot be evaluated.
    """
    check_dataset(dataset, "the command line")
    if not detections.exists():
        raise InputError(f"{detections} does not exist.")
    if output is not None and output.exists():
        raise InputError(f"{output} is there already. Move it away to write it anew.")
    with atomic_folder(output) if output else tempfile.TemporaryDirectory() as folder:
        try:
            evaluator = build_evaluator(dataset, str(folder))
            results = evaluate_detections(dataset, detections, evaluator)
        except ValueError as e:
            raise InputError(str(e)) from e
        write_json(Path(folder, "results.json"), results)
    return results


def make_table(results: Results) -> str:
    """
    Returns:
        str: in Markdown, a row for each metric and a column for each task.
    """
    metrics = dict.fromkeys(x for task in results.values() for x in task)
    rows = [[x, *(task.get(x) for task in results.values())] for x in metrics]
    headers: list[Any] = ["%", *results]
    return tabulate(rows, headers, tablefmt="github", floatfmt=".1f", missingval="-")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="the name of a dataset that is registered in detectron2")
    parser.add_argument("detections", type=Path, help="of this dataset: the file or the folder")
    parser.add_argument(
        "--output",
        type=Path,
        help="a new folder for results.json, and what the evaluator writes; by default none",
    )
    parser.add_argument(
        "--import",
        dest="module",
        help="a Python module that registers the dataset, such as my_datasets",
    )
    args = parser.parse_args()
    try:
        if args.module:
            import_module(args.module)
        # What pycocotools prints is no part of the table.
        with contextlib.redirect_stdout(sys.stderr):
            results = evaluate(args.dataset, args.detections, args.output)
    except InputError as e:
        sys.exit(f"evaluate_detections.py: {e}")
    print(make_table(results))


if __name__ == "__main__":
    main()
