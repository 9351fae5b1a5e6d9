"""
Evaluate detections in files, without a model: a json file of COCO's results as pycocotools does,
or a folder of PASCAL VOC's comp4 files as VOC's development kit does.

    %(prog)s coco_2017_val results.json
    %(prog)s voc_2007_test output/inference/voc_2007_test
"""

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

from tabulate import tabulate

from ..engine import InputError, import_module
from ..engine.input_checks import check_dataset
from ..evaluation import PascalVOCEvaluator, evaluate_coco_results
from ..utils import atomic_folder, write_json
from .command_line import add_import_argument, exit_on_error, make_parser

Results = dict[str, dict[str, float]]


def evaluate(dataset: str, detections: Path, output: Optional[Path]) -> Results:
    """
    Returns:
        dict[str, dict[str, float]]: by task ("bbox", ...) and metric, in percent.

    Raises:
        InputError: if these are not detections on this dataset.
    """
    check_dataset(dataset, "the command line", is_evaluated=True)
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
    parser = make_parser(__doc__)
    parser.add_argument("dataset", help="a registered dataset")
    parser.add_argument("detections", type=Path, help="the file or folder")
    parser.add_argument(
        "--output",
        type=Path,
        help="a new folder for results.json and, for PASCAL VOC, voc_results.json (default: none)",
    )
    add_import_argument(parser)
    args = parser.parse_args()
    with exit_on_error():
        import_module(args.module)
        # Only the table goes to stdout: pycocotools prints as well.
        with contextlib.redirect_stdout(sys.stderr):
            results = evaluate(args.dataset, args.detections, args.output)
    print(make_table(results))
