"""
What is wrong with what commands leave, for the commands that read it: detections, metrics, results,
hard examples, and the files of stopped runs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .fault import BINARY, COCO, CONFIG, VOC, WEIGHTS, Fault, Spoil, edit, remove, write

__all__ = ["ABLATION", "ABLATION_FILE", "FAULTS", "PROPOSALS", "PROPOSALS_FILE"]


def _json(file: str, change: Callable[[Any], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return spoil


DETECTIONS = "a/inference/coco_coco.json_voc_JPEGImages/coco_instances_results.json"
COMP4 = "a/inference/voc_voc_all/comp4_det_all_cat.txt"


def _set(field: str, value: Any) -> Spoil:
    return _json(DETECTIONS, lambda x: x[0].update({field: value}))


def _drop(field: str) -> Spoil:
    return _json(DETECTIONS, lambda x: x[0].pop(field))


COCO_DETECTIONS: dict[str, Spoil] = {
    "missing": remove(DETECTIONS),
    "empty": write(DETECTIONS, ""),
    "cut in the middle": edit(DETECTIONS, lambda x: x[: len(x) // 2]),
    "a dict": write(DETECTIONS, "{}"),
    "a list of numbers": write(DETECTIONS, "[1, 2]"),
    "binary": write(DETECTIONS, BINARY),
    "without score": _drop("score"),
    "without image_id": _drop("image_id"),
    "without category_id": _drop("category_id"),
    "without bbox": _drop("bbox"),
    "score of text": _set("score", "high"),
    "score NaN": _set("score", float("nan")),
    "bbox of three numbers": _set("bbox", [1, 2, 3]),
    "bbox with NaN": _set("bbox", [1, 2, float("nan"), 4]),
    "an unknown category": _set("category_id", 99),
    "a category of text": _set("category_id", [1]),
    "an unknown image": _set("image_id", 99),
    "an image of text": _set("image_id", [1]),
}
VOC_DETECTIONS: dict[str, Spoil] = {
    "missing": remove(COMP4),
    "binary": write(COMP4, BINARY),
    "words": write(COMP4, "a high 1 2 3 4\n"),
    "four numbers": write(COMP4, "a .5 1 2 3\n"),
    "six numbers": write(COMP4, "a .5 1 2 3 4 5\n"),
    "a score NaN": write(COMP4, "a nan 1 2 3 4\n"),
    "a box infinite": write(COMP4, "a .5 1 2 inf 4\n"),
    "an unknown image": write(COMP4, "z .5 1 2 3 4\n"),
    "a blank line": write(COMP4, "a .5 1 2 3 4\n\n"),
}


def detection_faults() -> list[Fault]:
    compare = ["compare", "a", "b", "--output", "new"]
    faults = []
    for name, spoil in COCO_DETECTIONS.items():
        faults.append(
            Fault("detections", name, ["evaluate", COCO, DETECTIONS], spoil, "results.json|JPEG")
        )
        if name != "missing":  # then it is not among the datasets of both
            faults.append(Fault("detections", name, compare, spoil, "results.json|JPEG"))
    for name, spoil in VOC_DETECTIONS.items():
        for command in (["evaluate", VOC, str(Path(COMP4).parent)], compare):
            faults.append(
                Fault("detections", f"{name}, comp4", command, spoil, r"comp4|voc_voc_all")
            )
    return faults


# What they leave if they are stopped.
ABLATION = ["ablation", *CONFIG, "--weights", WEIGHTS, "--output", "new"]
ABLATION_FILE = "new/plain/voc_voc_all.results"
PROPOSALS = ["proposals", VOC, "new.pkl", "--processes", "0"]
PROPOSALS_FILE = "new.pkl.partial"

# Of a training: what is wrong, and whether it is refused. Without results.json, detectron2's
# metrics.json serves, too.
LEFT: dict[str, list[tuple[str, Spoil, bool]]] = {
    "config.yaml": [
        ("missing", remove("a/config.yaml"), True),
        ("empty", write("a/config.yaml", ""), True),
        ("a list", write("a/config.yaml", "[1]"), True),
        ("not YAML", write("a/config.yaml", "X: [1"), True),
        ("binary", write("a/config.yaml", BINARY), True),
        ("without DATASETS", write("a/config.yaml", "MODEL: {}\n"), True),
    ],
    "metrics.json": [
        ("missing", remove("a/metrics.json"), True),
        ("empty", write("a/metrics.json", ""), True),
        ("a line of text", edit("a/metrics.json", lambda x: b"text\n" + x), True),
        ("a line of a list", edit("a/metrics.json", lambda x: b"[1]\n" + x), True),
        ("a value of text", edit("a/metrics.json", lambda x: b'{"iteration": "a"}\n' + x), True),
        ("binary", write("a/metrics.json", BINARY + b"\n"), True),
    ],
    "results.json": [
        ("missing", remove("a/results.json"), False),
        ("empty", write("a/results.json", ""), True),
        ("cut in the middle", edit("a/results.json", lambda x: x[: len(x) // 2]), True),
        ("a dict", write("a/results.json", "{}"), True),
        ("null", write("a/results.json", "null"), True),
        ("a list of numbers", write("a/results.json", "[1]"), True),
        (
            "without dataset",
            _json("a/results.json", lambda x: x[0].pop("dataset")),
            True,
        ),
        ("results of text", _json("a/results.json", lambda x: x[0].update(results="AP")), True),
        (
            "a metric of text",
            _json("a/results.json", lambda x: x[0]["results"]["bbox"].update(AP="high")),
            True,
        ),
    ],
}

# The same, for roi-loss, and what it leaves itself.
ROI_LOSS: dict[str, dict[str, Spoil]] = {
    "config.yaml": {
        "missing": remove("a/config.yaml"),
        "not YAML": write("a/config.yaml", "X: [1"),
        "binary": write("a/config.yaml", BINARY),
    },
    "model_final.pth": {
        "empty": write(WEIGHTS, ""),
        "binary": write(WEIGHTS, BINARY),
        "cut in the middle": edit(WEIGHTS, lambda x: x[: len(x) // 2]),
    },
    "roi_loss.json": {
        "empty": write("a/roi_loss.json", ""),
        "a list": write("a/roi_loss.json", "[]"),
        "a loss of text": write("a/roi_loss.json", '{"losses": {"1": "x"}, "dataset": "x"}'),
        "of another dataset": write("a/roi_loss.json", '{"losses": {}, "dataset": "x"}'),
        "binary": write("a/roi_loss.json", BINARY),
    },
}


def left_faults() -> list[Fault]:
    faults = []
    for file, cases in LEFT.items():
        for name, spoil, is_refused in cases:
            expected = file.replace(".", r"\.") if is_refused else ""
            command = ["compare", "a", "b", "--output", "new"]
            faults.append(
                Fault("what trainings leave", f"{file}: {name}", command, spoil, expected)
            )
    for file, cases in ROI_LOSS.items():
        for name, spoil in cases.items():
            title, expected = f"{file}: {name}", file.replace(".", r"\.")
            faults.append(Fault("what trainings leave", title, ["roi-loss", "a"], spoil, expected))
    inspect = ["inspect", *CONFIG, "--output", "inspection", "MODEL.WEIGHTS", WEIGHTS]
    file = "inspection/hard_examples.json"
    for name, spoil in {
        "empty": write(file, ""),
        "cut in the middle": edit(file, lambda x: x[: len(x) // 2]),
        "a list": write(file, "[]"),
        "binary": write(file, BINARY),
        "examples of numbers": _json(file, lambda x: x.update(examples=[1])),
        "without description": _json(file, lambda x: x.pop("description")),
        "of other weights": _json(file, lambda x: x["description"].update(weights="0")),
        "missing, with pictures": remove(file),
        "an image count of text": _json(file, lambda x: x.update(num_images="two")),
    }.items():
        faults.append(
            Fault("what inspect leaves", name, inspect, spoil, r"hard_examples\.json|inspection")
        )
    for name, content in {"of another run": b'{"dataset": "x"}\n', "binary": BINARY}.items():
        for kind, command, file in (
            ("what ablation leaves", ABLATION, ABLATION_FILE),
            ("what proposals leaves", PROPOSALS, PROPOSALS_FILE),
        ):
            message = Path(file).name
            faults.append(Fault(kind, name, command, write(file, content), message))
    return faults


FAULTS = [*detection_faults(), *left_faults()]
