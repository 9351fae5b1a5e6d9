#!/usr/bin/env python3
"""
Evaluate detections in files, without a model: a json file of COCO's results as pycocotools does,
or a folder of PASCAL VOC's comp4 files as VOC's development kit does.

    python tools/evaluate_detections.py coco_2017_val results.json
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
from ohem_d2.evaluation import PascalVOCEvaluator, evaluate_coco_results
from ohem_d2.utils import atomic_folder, write_json

Results = dict[str, dict[str, float]]


def evaluate(dataset: str, detections: Path, output: Optional[Path]) -> Results:
    """
    Returns:
        dict[str, dict[str, float]]: by task ("bbox", ...) and metric, in percent.

    Raises:
        InputError: if these are not detections on this dataset.
    """
    check_dataset(dataset, "the command line")
    if not detections.exists():
        raise InputError(f"{detections} does not exist.")
    if output is not None and output.exists():
        raise InputError(f"{output} already exists. Move it away, or choose another --output.")
    with atomic_folder(output) if output else tempfile.TemporaryDirectory() as folder:
        if detections.is_dir():
            results = PascalVOCEvaluator(dataset, str(folder)).evaluate_folder(detections)
        else:
            results = evaluate_coco_results(dataset, detections)
        write_json(Path(folder, "results.json"), results)
    return results


def make_table(results: Results) -> str:
    """
    Returns:
        str: a Markdown table with a row for each metric and a column for each task.
    """
    metrics = dict.fromkeys(x for task in results.values() for x in task)
    rows = [[x, *(task.get(x) for task in results.values())] for x in metrics]
    headers: list[Any] = ["%", *results]
    return tabulate(rows, headers, tablefmt="github", floatfmt=".1f", missingval="-")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a registered dataset")
    parser.add_argument("detections", type=Path, help="the file or folder")
    parser.add_argument(
        "--output",
        type=Path,
        help="a new folder for results.json and, for PASCAL VOC, voc_results.json (default: none)",
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
        # Only the table goes to stdout: pycocotools prints as well.
        with contextlib.redirect_stdout(sys.stderr):
            results = evaluate(args.dataset, args.detections, args.output)
    except InputError as e:
        sys.exit(f"evaluate_detections.py: {e}")
    print(make_table(results))


if __name__ == "__main__":
    main()
