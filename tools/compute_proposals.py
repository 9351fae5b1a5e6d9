#!/usr/bin/env python3
"""
Write the proposal file of a dataset with the boxes of selective search, for Fast R-CNN.

    python tools/compute_proposals.py clutter_voc_train clutter_voc_train.pkl

A run that was stopped in any way goes on when the same command is given again.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import check_image_size, read_image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import ohem_d2  # noqa: F401  (registers the datasets)
from ohem_d2.data.proposal_file import make_proposals, write_proposals
from ohem_d2.data.selective_search import MODES, import_segmentation, selective_search
from ohem_d2.engine import InputError
from ohem_d2.engine.input_checks import check_dataset
from ohem_d2.utils.partial_results import PartialResults

MAX_NAMED = 20  # images that are named in an error


class Result(NamedTuple):
    image_id: str
    size: Optional[tuple[int, int]] = None  # height, width
    boxes: Optional[np.ndarray] = None  # (R, 4) of float32
    error: str = ""  # if there are none


class SelectiveSearch(Dataset):
    """
    The results of the images of a dataset, as a dataset: workers of a DataLoader compute them.
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
            # As the data loader reads it in training: turned as the camera was.
            image = read_image(record["file_name"], format="BGR")
            check_image_size(dict(record), image)
            return Result(image_id, image.shape[:2], selective_search(image, self.mode))
        except Exception as e:  # what a broken image raises depends on its format
            return Result(image_id, error=f"{record['file_name']}: {type(e).__name__}: {e}")


def one_thread(worker_id: int) -> None:
    import cv2

    cv2.setNumThreads(1)  # there are as many workers as cores


def as_it_is(result: Result) -> Result:
    return result


def describe_run(dataset: str, dataset_dicts: list[dict], mode: str) -> str:
    """
    Returns:
        str: a line of JSON. The results of two runs with the same one can be mixed.
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
    Append the results of images to the partial ones, and advance the bar by them.

    Returns:
        list[Result]: those with an error, which are not appended, in the order of the dataset.
    """
    loader = DataLoader(
        SelectiveSearch(dataset_dicts, mode),
        batch_size=None,
        num_workers=processes,
        collate_fn=as_it_is,
        worker_init_fn=one_thread,
    )
    failed = []
    for result in loader:
        if result.error:
            failed.append(result)
        else:
            partial.append(tuple(result))
        bar.update()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="the name of a dataset that is registered in detectron2")
    parser.add_argument("output", type=Path, help="the proposal file to write")
    parser.add_argument("--mode", choices=MODES, default="fast", help="by default fast")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="worker processes, by default one for each core; 0: none beside this one",
    )
    args = parser.parse_args()
    partial_path = args.output.with_name(f"{args.output.name}.partial")
    try:
        import_segmentation()
        check_dataset(args.dataset, "the command line")
        if args.output.exists():
            raise InputError(f"{args.output} is there already. Move it away to compute it anew.")
        dataset_dicts = DatasetCatalog.get(args.dataset)
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except (ImportError, InputError) as e:
        sys.exit(f"compute_proposals.py: {e}")
    description = describe_run(args.dataset, dataset_dicts, args.mode)
    try:
        partial = PartialResults(partial_path, description)
    except ValueError as e:
        sys.exit(f"compute_proposals.py: {e}")

    done = {Result(*x).image_id for x in partial.results}
    if done:
        print(
            f"Going on with {partial_path}: {len(done)} of {len(dataset_dicts)} images are there."
        )
    remaining = [x for x in dataset_dicts if str(x["image_id"]) not in done]
    kept = f"What is done is in {partial_path}: the same command goes on from there."
    try:
        with partial, tqdm(total=len(dataset_dicts), initial=len(done), unit="image") as bar:
            failed = compute(remaining, args.mode, args.processes, partial, bar)
    except KeyboardInterrupt:
        sys.exit(f"\nStopped. {kept}")
    except RuntimeError as e:  # of the DataLoader: a worker was killed, mostly for its memory
        sys.exit(f"compute_proposals.py: {e}\n{kept} Fewer --processes need less memory.")

    if failed:
        lines = [f"  image {x.image_id}: {x.error}" for x in failed[:MAX_NAMED]]
        if len(failed) > MAX_NAMED:
            lines.append(f"  and {len(failed) - MAX_NAMED} more")
        sys.exit(
            f"compute_proposals.py: {len(failed)} of {len(dataset_dicts)} images failed:\n"
            + "\n".join(lines)
            + f"\nRepair them or take them out of the dataset. {kept}"
        )
    by_id = {x.image_id: x for x in (Result(*x) for x in partial.results)}
    results = [by_id[str(x["image_id"])] for x in dataset_dicts]
    proposals = make_proposals(
        [x.image_id for x in results], [x.boxes for x in results], [x.size for x in results]
    )
    write_proposals(args.output, proposals)
    partial_path.unlink()
    num_boxes = sum(len(x.boxes) for x in results)
    print(f"{args.output}: {num_boxes} proposals of {len(results)} images")


if __name__ == "__main__":
    main()
