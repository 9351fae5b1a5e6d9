"""
What is wrong with weights, and with the checkpoints that trainings resume from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .fault import (
    BINARY,
    CONFIG,
    WEIGHTS,
    Fault,
    Spoil,
    edit,
    nothing,
    readers_of_weights,
    remove,
    replace_by_folder,
    write,
)

__all__ = ["FAULTS"]


def _checkpoint(change: Callable[[dict], object], file: str = WEIGHTS) -> Spoil:
    def spoil(folder: Path) -> None:
        content = torch.load(folder / file, weights_only=False)
        change(content)
        torch.save(content, folder / file)

    return spoil


def _some_weight(change: Callable[[torch.Tensor], Any]) -> Callable[[dict], object]:
    name = "roi_heads.box_predictor.cls_score.weight"

    def of_checkpoint(checkpoint: dict) -> None:
        checkpoint["model"][name] = change(checkpoint["model"][name])

    return of_checkpoint


def _fill(value: float) -> Callable[[dict], object]:
    return _some_weight(lambda x: torch.full_like(x, value))


BROKEN_WEIGHTS: dict[str, Spoil] = {
    "empty": write(WEIGHTS, b""),
    "text": write(WEIGHTS, "<html>Not found</html>"),
    "binary": write(WEIGHTS, BINARY),
    "cut in the middle": edit(WEIGHTS, lambda x: x[: len(x) // 2]),
    "cut at the end": edit(WEIGHTS, lambda x: x[:-100]),
    "missing": remove(WEIGHTS),
    "a folder": replace_by_folder(WEIGHTS),
    "NaN": _checkpoint(_fill(float("nan"))),
    "infinite": _checkpoint(_fill(float("inf"))),
    "a list of weights": _checkpoint(lambda x: x.update(model=[1, 2])),
    "a whole module": lambda folder: torch.save(torch.nn.Linear(2, 2), folder / WEIGHTS),
}
# Weights of something else: training leaves the rest random, as detectron2 does.
UNFIT_WEIGHTS: dict[str, Spoil] = {
    "a weight less": _checkpoint(
        lambda x: x["model"].pop("roi_heads.box_predictor.cls_score.weight")
    ),
    "a weight of another shape": _checkpoint(_some_weight(lambda x: x[:2])),
    "of a classifier": lambda x: (x / "classifier.pth").replace(x / WEIGHTS),
    "no weights": _checkpoint(lambda x: x["model"].clear()),
}


def weights_faults() -> list[Fault]:
    train = ["train", *CONFIG, "MODEL.WEIGHTS", WEIGHTS]
    others = readers_of_weights(CONFIG)
    faults = []
    message = r"model_final\.pth"
    for name, spoil in BROKEN_WEIGHTS.items():
        faults += [Fault("weights", name, x, spoil, message) for x in (train, *others)]
    for name, spoil in UNFIT_WEIGHTS.items():
        faults.append(Fault("weights", name, train, spoil, ""))
        faults += [Fault("weights", name, x, spoil, message) for x in others]
    for file in ("weights.pkl", "weights.pyth"):
        for command in (
            ["train", *CONFIG, "MODEL.WEIGHTS", file],
            *readers_of_weights(CONFIG, file),
        ):
            faults.append(Fault("weights", f"text, {file[7:]}", command, write(file, "text"), file))
    convert = ["convert-weights", *CONFIG, "classifier.pth", "new.pth"]
    for name, spoil in {
        "empty": write("classifier.pth", b""),
        "binary": write("classifier.pth", BINARY),
        "missing": remove("classifier.pth"),
        "a folder": replace_by_folder("classifier.pth"),
        "a list": lambda x: torch.save([1], x / "classifier.pth"),
        "of another network": lambda x: torch.save(
            {"block.weight": torch.ones(2)}, x / "classifier.pth"
        ),
        "of another width": lambda x: torch.save(
            {"conv1.weight": torch.ones(64, 3, 7, 7)}, x / "classifier.pth"
        ),
        "of another input": nothing,
    }.items():
        message = "INPUT" if name == "of another input" else r"classifier\.pth|conv1\.weight"
        faults.append(Fault("weights", name, convert, spoil, message))
    caffe = [x.replace(".pth", ".caffemodel") if x == "classifier.pth" else x for x in convert]
    for name, content in {"text": b"layer {}", "binary": BINARY, "empty": b""}.items():
        spoil = write("classifier.caffemodel", content)
        faults.append(Fault("weights", f"{name}, .caffemodel", caffe, spoil, "caffemodel"))
    return faults


LAST = "a/last_checkpoint"


def resume_faults() -> list[Fault]:
    command = ["train", *CONFIG, "--resume", "OUTPUT_DIR", "a", "SOLVER.MAX_ITER", "3"]
    options = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
    refused: dict[str, tuple[Spoil, str]] = {
        f"checkpoint: {name}": (spoil, r"(?s)model_final\.pth.*model_0000001\.pth")
        for name, spoil in BROKEN_WEIGHTS.items()
    }
    refused |= {
        "checkpoint of another model": (
            _checkpoint(_some_weight(lambda x: x[:2])),
            r"model_final\.pth",
        ),
        "checkpoint without optimizer": (
            _checkpoint(lambda x: (x.pop("trainer", 0), x.pop("optimizer", 0))),
            r"(?s)model_final\.pth.*(trainer|optimizer)",
        ),
        "checkpoint without iteration": (
            _checkpoint(lambda x: x.pop("iteration")),
            r"(?s)model_final\.pth.*iteration",
        ),
        "last_checkpoint empty": (write(LAST, ""), "last_checkpoint"),
        "last_checkpoint of something else": (write(LAST, "../config.yaml"), "last_checkpoint"),
        "last_checkpoint binary": (write(LAST, BINARY), "last_checkpoint"),
        "a line of metrics.json of text": (
            edit("a/metrics.json", lambda x: b"text\n" + x),
            r"metrics\.json",
        ),
    }
    faults = [
        Fault("resumed trainings", name, [*command, *options], spoil, message)
        for name, (spoil, message) in refused.items()
    ]
    accepted: dict[str, Spoil] = {
        "nothing wrong": nothing,
        "half a line of metrics.json": edit("a/metrics.json", lambda x: x + b'{"iterat'),
        "metrics.json missing": remove("a/metrics.json"),
        "metrics.json empty": write("a/metrics.json", ""),
        "half a checkpoint of a killed run": write("a/unfinished_checkpoint/x.pth", BINARY),
        "never begun": remove(LAST),
    }
    faults += [
        Fault("resumed trainings", name, [*command, *options], spoil, "")
        for name, spoil in accepted.items()
    ]
    other = [*command, *options, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]
    faults.append(Fault("resumed trainings", "other classes", other, nothing, "NUM_CLASSES"))
    return faults


FAULTS = [*weights_faults(), *resume_faults()]
