"""
What is wrong with files that this project's commands read: proposals, weights, checkpoints,
detections, and what trainings leave.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat, savemat

from .fault import COCO, VOC, Fault, Spoil, all_of, edit, nothing, remove, write
from .running import SENTINEL

__all__ = ["FAULTS"]

CONFIG = ["--config-file", "config.yaml"]
FAST_RCNN = ["--config-file", "fast_rcnn.yaml"]
BINARY = bytes(range(256)) * 4


class Malicious:
    """
    Writes a file when it is unpickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({SENTINEL!r}, 'w')",)


def _folder_at(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


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
    "a folder": (_folder_at("proposals.pkl"), ""),
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
    readers = [
        ["train", *FAST_RCNN],
        ["train", *FAST_RCNN, "--eval-only", "MODEL.WEIGHTS", "a/model_final.pth"],
        ["inspect", *FAST_RCNN, "--output", "new", "MODEL.WEIGHTS", "a/model_final.pth"],
        ["ablation", *FAST_RCNN, "--weights", "a/model_final.pth", "--output", "new"],
    ]
    faults = []
    for name, (spoil, words) in PROPOSALS.items():
        message = rf"(?s)proposals\.pkl.*{words}"
        faults += [Fault("proposals", name, x, spoil, message) for x in readers]
    for name, spoil in PROPOSALS_ACCEPTED.items():
        # The weights are those of a detector with an RPN: its other weights fit.
        faults += [Fault("proposals", name, x, spoil, "") for x in readers]
    none = ["DATASETS.PROPOSAL_FILES_TEST", "()"]
    faults += [
        Fault("proposals", "no file named", [*x, *none], nothing, "PROPOSAL_FILES_TEST")
        for x in readers
        if x[0] != "inspect"  # it inspects DATASETS.TRAIN
    ]
    for name, (spoil, words) in MATLAB.items():
        command = ["convert-proposals", VOC, "boxes.mat", "new.pkl"]
        faults.append(Fault("MATLAB's boxes", name, command, spoil, rf"(?s)boxes\.mat.*{words}"))
    return faults


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
    "a folder": (_folder_at("boxes.mat"), ""),
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

WEIGHTS = "a/model_final.pth"


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
    "a folder": _folder_at(WEIGHTS),
    "NaN": _checkpoint(_fill(float("nan"))),
    "infinite": _checkpoint(_fill(float("inf"))),
    "a list of weights": _checkpoint(lambda x: x.update(model=[1, 2])),
    "malicious": _checkpoint(lambda x: x.update(extra=Malicious())),
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
    others = [
        ["train", *CONFIG, "--eval-only", "MODEL.WEIGHTS", WEIGHTS],
        ["inspect", *CONFIG, "--output", "new", "MODEL.WEIGHTS", WEIGHTS],
        ["ablation", *CONFIG, "--weights", WEIGHTS, "--output", "new"],
    ]
    faults = []
    message = r"model_final\.pth"
    for name, spoil in BROKEN_WEIGHTS.items():
        faults += [Fault("weights", name, x, spoil, message) for x in (train, *others)]
    for name, spoil in UNFIT_WEIGHTS.items():
        faults.append(Fault("weights", name, train, spoil, ""))
        faults += [Fault("weights", name, x, spoil, message) for x in others]
    for suffix in ("pkl", "pyth"):
        for name, content in {
            "malicious": pickle.dumps({"model": {}, "extra": Malicious()}),
            "text": b"text",
        }.items():
            file = f"weights.{suffix}"
            for command in (train, *others):
                renamed = [file if x == WEIGHTS else x for x in command]
                faults.append(
                    Fault("weights", f"{name}, .{suffix}", renamed, write(file, content), file)
                )
    convert = ["convert-weights", *CONFIG, "classifier.pth", "new.pth"]
    for name, spoil in {
        "empty": write("classifier.pth", b""),
        "binary": write("classifier.pth", BINARY),
        "missing": remove("classifier.pth"),
        "a folder": _folder_at("classifier.pth"),
        "malicious": lambda x: torch.save({"x": Malicious()}, x / "classifier.pth"),
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


def _json(file: str, change: Callable[[Any], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        changed = change(content)
        (folder / file).write_text(json.dumps(content if changed is None else changed))

    return spoil


DETECTIONS = "a/inference/coco_coco.json_voc_JPEGImages/coco_instances_results.json"
COMP4 = "a/inference/voc_voc_all/comp4_det_all_cat.txt"


def _set(field: str, value: Any) -> Spoil:
    return _json(DETECTIONS, lambda x: x[0].update({field: value}))


def _drop(field: str) -> Spoil:
    return _json(DETECTIONS, lambda x: (x[0].pop(field), None)[1])


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


LEFT: dict[str, list[tuple[str, Spoil, str]]] = {
    "config.yaml": [
        ("missing", remove("a/config.yaml"), ""),
        ("empty", write("a/config.yaml", ""), ""),
        ("a list", write("a/config.yaml", "[1]"), ""),
        ("not YAML", write("a/config.yaml", "X: [1"), ""),
        ("binary", write("a/config.yaml", BINARY), ""),
        ("without DATASETS", write("a/config.yaml", "MODEL: {}\n"), ""),
        (
            "malicious",
            write("a/config.yaml", f"X: !!python/object/apply:exec [\"open('{SENTINEL}', 'w')\"]"),
            "",
        ),
    ],
    "metrics.json": [
        ("missing", remove("a/metrics.json"), ""),
        ("empty", write("a/metrics.json", ""), ""),
        ("a line of text", edit("a/metrics.json", lambda x: b"text\n" + x), ""),
        ("a line of a list", edit("a/metrics.json", lambda x: b"[1]\n" + x), ""),
        ("a value of text", edit("a/metrics.json", lambda x: b'{"iteration": "a"}\n' + x), ""),
        ("binary", write("a/metrics.json", BINARY + b"\n"), ""),
    ],
    "results.json": [
        ("missing", remove("a/results.json"), None),
        ("empty", write("a/results.json", ""), ""),
        ("cut in the middle", edit("a/results.json", lambda x: x[: len(x) // 2]), ""),
        ("a dict", write("a/results.json", "{}"), None),
        ("null", write("a/results.json", "null"), ""),
        ("a list of numbers", write("a/results.json", "[1]"), ""),
        ("without dataset", _json("a/results.json", lambda x: (x[0].pop("dataset"), None)[1]), ""),
        ("results of text", _json("a/results.json", lambda x: x[0].update(results="AP")), ""),
        (
            "a metric of text",
            _json("a/results.json", lambda x: x[0]["results"]["bbox"].update(AP="high")),
            "",
        ),
    ],
}


def left_faults() -> list[Fault]:
    faults = []
    for file, cases in LEFT.items():
        for name, spoil, message in cases:
            # None: detectron2's metrics.json serves, too.
            expected = "" if message is None else file.replace(".", r"\.")
            command = ["compare", "a", "b", "--output", "new"]
            faults.append(
                Fault("what trainings leave", f"{file}: {name}", command, spoil, expected)
            )
    inspect = ["inspect", *CONFIG, "--output", "inspection", "MODEL.WEIGHTS", WEIGHTS]
    file = "inspection/hard_examples.json"
    for name, spoil in {
        "empty": write(file, ""),
        "cut in the middle": edit(file, lambda x: x[: len(x) // 2]),
        "a list": write(file, "[]"),
        "binary": write(file, BINARY),
        "examples of numbers": _json(file, lambda x: x.update(examples=[1])),
        "without description": _json(file, lambda x: (x.pop("description"), None)[1]),
        "of other weights": _json(file, lambda x: x["description"].update(weights="0")),
        "missing, with pictures": remove(file),
        "an image count of text": _json(file, lambda x: x.update(num_images="two")),
    }.items():
        faults.append(
            Fault("what inspect leaves", name, inspect, spoil, r"hard_examples\.json|inspection")
        )
    ablation = ["ablation", *CONFIG, "--weights", WEIGHTS, "--output", "new"]
    partial = "new/plain/voc_voc_all.results"
    for name, content in {
        "of another run": b'{"dataset": "x"}\n',
        "binary": BINARY,
        "a pickle": pickle.dumps(Malicious()),
    }.items():
        faults.append(
            Fault(
                "what ablation leaves", name, ablation, write(partial, content), "voc_all.results"
            )
        )
    proposals = ["proposals", VOC, "new.pkl", "--processes", "0"]
    for name, content in {
        "of another run": b'{"dataset": "x"}\n',
        "binary": BINARY,
        "a pickle": pickle.dumps(Malicious()),
    }.items():
        faults.append(
            Fault(
                "what proposals leaves",
                name,
                proposals,
                write("new.pkl.partial", content),
                "new.pkl.partial",
            )
        )
    for name, tag in {
        "the config": "config.yaml",
        "its base": "base.yaml",
    }.items():
        for command in (
            ["train", *CONFIG],
            ["inspect", *CONFIG, "MODEL.WEIGHTS", WEIGHTS],
            ["ablation", *CONFIG, "--weights", WEIGHTS],
            ["convert-weights", *CONFIG, "classifier.pth", "new.pth"],
        ):
            code = f"X: !!python/object/apply:exec [\"open('{SENTINEL}', 'w')\"]\n"
            spoil = all_of(write("config.yaml", "_BASE_: base.yaml\n"), write(tag, code))
            faults.append(
                Fault("config files", f"malicious: {name}", command, spoil, r"config\.yaml")
            )
    for command in (
        ["train", *FAST_RCNN],
        ["train", *FAST_RCNN, "--eval-only", "MODEL.WEIGHTS", WEIGHTS],
        ["inspect", *FAST_RCNN, "--output", "new", "MODEL.WEIGHTS", WEIGHTS],
        ["ablation", *FAST_RCNN, "--weights", WEIGHTS, "--output", "new"],
    ):
        for protocol in (0, 2, 5):
            content = pickle.dumps({"ids": ["a"], "boxes": [Malicious()]}, protocol)
            faults.append(
                Fault(
                    "proposals",
                    f"malicious, protocol {protocol}",
                    command,
                    write("proposals.pkl", content),
                    r"proposals\.pkl",
                )
            )
    return faults


FAULTS = [
    *proposal_faults(),
    *weights_faults(),
    *resume_faults(),
    *detection_faults(),
    *left_faults(),
]
