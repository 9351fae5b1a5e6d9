"""
What is wrong with proposal files, and with the MATLAB files that they are converted from.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat, savemat

from .fault import (
    BINARY,
    FAST_RCNN,
    VOC,
    Fault,
    Spoil,
    accepted,
    all_of,
    edit,
    nothing,
    readers_of_weights,
    refused,
    remove,
    replace_by_folder,
    write,
)

__all__ = ["FAULTS"]


def _proposals(change: Callable[[dict], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = pickle.loads((folder / "proposals.pkl").read_bytes())
        content["boxes"] = [x.copy() for x in content["boxes"]]
        change(content)
        (folder / "proposals.pkl").write_bytes(pickle.dumps(content))

    return spoil


def _first(key: str, value: Any) -> Spoil:
    return _proposals(lambda x: x[key].__setitem__(0, value))


def _first_box(*box: float) -> Spoil:
    return _proposals(lambda x: x["boxes"][0].__setitem__(0, box))


PROPOSALS: dict[str, tuple[Spoil, str]] = {
    "missing": (remove("proposals.pkl"), ""),
    "empty": (write("proposals.pkl", b""), ""),
    "cut in the middle": (edit("proposals.pkl", lambda x: x[: len(x) // 2]), ""),
    "text": (write("proposals.pkl", "a b c"), ""),
    "binary": (write("proposals.pkl", BINARY), ""),
    "a folder": (replace_by_folder("proposals.pkl"), ""),
    "a list": (write("proposals.pkl", pickle.dumps([1])), ""),
    "without boxes": (_proposals(lambda x: x.pop("boxes")), "boxes"),
    "without ids": (_proposals(lambda x: x.pop("ids")), "ids"),
    "without logits": (_proposals(lambda x: x.pop("objectness_logits")), "objectness_logits"),
    "fewer ids than boxes": (_proposals(lambda x: x["ids"].pop()), "length"),
    "without an image": (_first("ids", "other"), "Image a"),
    "an image's boxes a list": (_first("boxes", [[1, 2, 3, 4]]), "Image a"),
    "an image's boxes of three numbers": (_first("boxes", np.zeros((3, 3), "f4")), "Image a"),
    "boxes of integers": (_first("boxes", np.zeros((3, 4), "i4")), "Image a"),
    "a box with NaN": (_first_box(0, 0, float("nan"), 5), "Image a"),
    "a box beyond the image": (_first_box(0, 0, 500, 5), "Image a"),
    "a box with swapped corners": (_first_box(30, 0, 5, 5), "Image a"),
    "fewer logits than boxes": (_first("objectness_logits", np.zeros(1, "f4")), "Image a"),
    "a logit NaN": (_first("objectness_logits", np.full(3, np.nan, "f4")), "Image a"),
    "an unknown box mode": (_proposals(lambda x: x.update(bbox_mode=4)), "bbox_mode"),
}
PROPOSALS_ACCEPTED: dict[str, Spoil] = {
    "an image without boxes": all_of(
        _first("boxes", np.zeros((0, 4), "f4")), _first("objectness_logits", np.zeros(0, "f4"))
    ),
    "more images": _proposals(
        lambda x: (
            [x[k].append(v) for k, v in (("ids", "z"), ("boxes", 0))]
            and x["objectness_logits"].append(0)
        )
    ),
    "Detectron1's names": _proposals(
        lambda x: x.update(indexes=x.pop("ids"), scores=x.pop("objectness_logits"))
    ),
}


def proposal_faults() -> list[Fault]:
    readers = [["train", *FAST_RCNN], *readers_of_weights(FAST_RCNN)]
    none = ["DATASETS.PROPOSAL_FILES_TEST", "()"]
    convert = ["convert-proposals", VOC, "boxes.mat", "new.pkl"]
    return [
        *refused("proposals", PROPOSALS, readers, r"proposals\.pkl"),
        # The weights are those of a detector with an RPN: its other weights fit.
        *accepted("proposals", PROPOSALS_ACCEPTED, readers),
        *(
            Fault("proposals", "no file named", [*x, *none], nothing, "PROPOSAL_FILES_TEST")
            for x in readers
            if x[0] != "inspect"  # it inspects DATASETS.TRAIN
        ),
        *refused("MATLAB's boxes", MATLAB, [convert], r"boxes\.mat"),
    ]


def _matlab(change: Callable[[dict], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = {k: v for k, v in loadmat(folder / "boxes.mat").items() if k[0] != "_"}
        change(content)
        savemat(folder / "boxes.mat", content)

    return spoil


MATLAB: dict[str, tuple[Spoil, str]] = {
    "missing": (remove("boxes.mat"), ""),
    "empty": (write("boxes.mat", b""), ""),
    "binary": (write("boxes.mat", BINARY), ""),
    "cut in the middle": (edit("boxes.mat", lambda x: x[: len(x) // 2]), ""),
    "a folder": (replace_by_folder("boxes.mat"), ""),
    "without boxes": (_matlab(lambda x: x.update(boxen=x.pop("boxes"))), "boxes"),
    "boxes in one array": (_matlab(lambda x: x.update(boxes=np.zeros((3, 4)))), "boxes"),
    "fewer images": (_matlab(lambda x: x.update(boxes=x["boxes"][:, :2])), "2"),
    "boxes of three numbers": (
        _matlab(lambda x: x["boxes"].__setitem__((0, 0), np.ones((2, 3)))),
        "Image a",
    ),
    "pixels from 0": (
        _matlab(lambda x: x["boxes"].__setitem__((0, 0), np.zeros((2, 4)))),
        "Image a",
    ),
    "boxes of another dataset": (
        _matlab(lambda x: x["boxes"].__setitem__((0, 0), np.array([[1.0, 1, 400, 900]]))),
        "Image a",
    ),
}


FAULTS = proposal_faults()
