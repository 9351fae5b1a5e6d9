"""
Compute the selective-search boxes of a dataset and write its proposal file, for Fast R-CNN.

    %(prog)s clutter_voc_train clutter_voc_train.pkl

To continue an interrupted run, repeat the command.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import check_image_size, read_image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.dataset_findings import describe_image_error
from ..data.proposal_file import make_proposals, write_proposals
from ..data.selective_search import MODES, import_segmentation, selective_search
from ..engine import InputError, import_module
from ..engine.input_checks import check_dataset
from ..utils.partial_results import PartialResults
from .command_line import add_import_argument, exit_on_error, make_parser

MAX_LISTED = 20  # failed images in an error message


class Result(NamedTuple):
    image_id: str
    size: tuple[int, int] = (0, 0)  # height, width
    boxes: np.ndarray = np.zeros((0, 4), np.float32)
    error: str = ""  # if they could not be computed


class SelectiveSearch(Dataset):
    """
    The results for the images of a dataset, computed by the workers of a DataLoader.
    """

    def __init__(self, dataset_dicts: list[dict], mode: str) -> None:
        self.dataset_dicts = dataset_dicts
        self.mode = mode

    def __len__(self) -> int:
        return len(self.dataset_dicts)

    def __getitem__(self, i: int) -> Result:
        record = self.dataset_dicts[i]
        image_id = str(record["image_id"])
        try:
            # Applies the EXIF orientation, as in training.
            image = read_image(record["file_name"], format="BGR")
            check_image_size(dict(record), image)
            return Result(image_id, image.shape[:2], selective_search(image, self.mode))
        except Exception as e:  # a broken image may raise anything
            return Result(image_id, error=describe_image_error(record["file_name"], e))


def use_one_thread(worker_id: int) -> None:
    import cv2

    cv2.setNumThreads(1)  # there is a worker for each core


def identity(result: Any) -> Any:
    return result


def describe_run(dataset: str, dataset_dicts: list[dict], mode: str) -> str:
    """
    Returns:
        str: a line of JSON. Results of runs with the same description can be mixed.
    """
    import cv2

    images = [(str(x["image_id"]), x.get("height"), x.get("width")) for x in dataset_dicts]
    return json.dumps(
        {
            "dataset": dataset,
            "images": hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16],
            "mode": mode,
            "opencv": cv2.__version__,
        }
    )


def compute(
    dataset_dicts: list[dict], mode: str, processes: int, partial: PartialResults, bar: tqdm
) -> list[Result]:
    """
    Append the results to the partial ones, and advance the bar.

    Returns:
        list[Result]: the failures, which are not appended, in the order of the dataset.
    """
    loader = DataLoader(
        SelectiveSearch(dataset_dicts, mode),
        batch_size=None,
        num_workers=processes,
        collate_fn=identity,
        worker_init_fn=use_one_thread,
    )
    failed = []
    for result in loader:
        if result.error:
            failed.append(result)
        else:
            partial.append(tuple(result))
        bar.update()
    return failed


def run(dataset: str, output: Path, mode: str, processes: int) -> str:
    """
    Returns:
        str: what was written.

    Raises:
        ImportError, InputError: if selective search or the input cannot be used.
    """
    import_segmentation()
    if processes < 0:
        raise InputError(f"--processes must be at least 0, not {processes}.")
    check_dataset(dataset, "the command line")
    if output.exists():
        raise InputError(f"{output} already exists. Move it away to compute it again.")
    dataset_dicts = DatasetCatalog.get(dataset)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial_path = output.with_name(f"{output.name}.partial")
    try:
        partial = PartialResults(partial_path, describe_run(dataset, dataset_dicts, mode))
    except ValueError as e:
        raise InputError(str(e)) from e

    done = {Result(*x).image_id for x in partial.results}
    if done:
        print(f"Continuing {partial_path}: {len(done)} of {len(dataset_dicts)} images are done.")
    remaining = [x for x in dataset_dicts if str(x["image_id"]) not in done]
    hint = f"Finished images are in {partial_path}: repeat the command to continue."
    try:
        with partial, tqdm(total=len(dataset_dicts), initial=len(done), unit="image") as bar:
            failed = compute(remaining, mode, processes, partial, bar)
    except KeyboardInterrupt:
        sys.exit(f"\nStopped. {hint}")
    except RuntimeError as e:  # DataLoader: a worker was killed, mostly for its memory
        raise InputError(f"{e}\n{hint} Fewer --processes need less memory.") from e

    if failed:
        lines = [f"  image {x.image_id}: {x.error}" for x in failed[:MAX_LISTED]]
        if len(failed) > MAX_LISTED:
            lines.append(f"  and {len(failed) - MAX_LISTED} more")
        raise InputError(
            f"{len(failed)} of {len(dataset_dicts)} images failed:\n"
            + "\n".join(lines)
            + f"\nRepair them or remove them from the dataset. {hint}"
        )
    by_id = {x.image_id: x for x in (Result(*x) for x in partial.results)}
    results = [by_id[str(x["image_id"])] for x in dataset_dicts]
    proposals = make_proposals(
        [x.image_id for x in results], [x.boxes for x in results], [x.size for x in results]
    )
    write_proposals(output, proposals)
    partial_path.unlink()
    num_boxes = sum(len(x.boxes) for x in results)
    return f"{output}: {num_boxes} proposals for {len(results)} images"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("dataset", help="name of a dataset registered in detectron2")
    parser.add_argument("output", type=Path, help="proposal file to write")
    parser.add_argument("--mode", choices=MODES, default="fast", help="default: fast")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="worker processes (default: one per core); 0: work in the main process",
    )
    add_import_argument(parser)
    args = parser.parse_args()
    with exit_on_error(ImportError):
        import_module(args.module)
        print(run(args.dataset, args.output, args.mode, args.processes))
