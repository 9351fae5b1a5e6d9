"""
Files from elsewhere that run code when they are read without care: one of each kind, for each
command that reads it.
"""

import io
import pickle
from typing import Any

import torch

from .fault import CONFIG, FAST_RCNN, WEIGHTS, Fault, all_of, readers_of_weights, write
from .left_faults import ABLATION, ABLATION_FILE, PROPOSALS, PROPOSALS_FILE
from .running import SENTINEL

__all__ = ["FAULTS", "Malicious"]

NAME = "malicious"


class Malicious:
    """
    Writes SENTINEL when it is unpickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({SENTINEL!r}, 'w')",)


ROI_LOSS = ["roi-loss", "a"]
YAML = f"X: !!python/object/apply:exec [\"open('{SENTINEL}', 'w')\"]\n"


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def weights_faults() -> list[Fault]:
    content = {"model": {}, "extra": Malicious()}
    faults = []
    for suffix in ("pkl", "pth", "pyth"):
        file = f"weights.{suffix}"
        spoil = write(file, pickle.dumps(content) if suffix == "pkl" else _saved(content))
        for command in (
            ["train", *CONFIG, "MODEL.WEIGHTS", file],
            *readers_of_weights(CONFIG, file),
        ):
            faults.append(Fault("weights", f"{NAME}, .{suffix}", command, spoil, file))
    resume = ["train", *CONFIG, "--resume", "OUTPUT_DIR", "a"]
    spoil = write(WEIGHTS, _saved(content))
    faults.append(Fault("resumed trainings", f"checkpoint: {NAME}", resume, spoil, WEIGHTS))
    faults.append(Fault("what trainings leave", f"checkpoint: {NAME}", ROI_LOSS, spoil, WEIGHTS))
    convert = ["convert-weights", *CONFIG, "classifier.pth", "new.pth"]
    spoil = write("classifier.pth", _saved({"x": Malicious()}))
    faults.append(Fault("weights", NAME, convert, spoil, r"classifier\.pth"))
    return faults


def proposal_faults() -> list[Fault]:
    faults = []
    for protocol in (0, 2, 5):
        content = pickle.dumps({"ids": ["a"], "boxes": [Malicious()]}, protocol)
        spoil = write("proposals.pkl", content)
        for command in (["train", *FAST_RCNN], *readers_of_weights(FAST_RCNN)):
            name = f"{NAME}, protocol {protocol}"
            faults.append(Fault("proposals", name, command, spoil, r"proposals\.pkl"))
    return faults


def config_faults() -> list[Fault]:
    faults = []
    convert = ["convert-weights", *CONFIG, "classifier.pth", "new.pth"]
    for name, file in {"the config": "config.yaml", "its base": "base.yaml"}.items():
        spoil = all_of(write("config.yaml", "_BASE_: base.yaml\n"), write(file, YAML))
        for command in (["train", *CONFIG], *readers_of_weights(CONFIG), convert):
            faults.append(Fault("config files", f"{NAME}: {name}", command, spoil, r"config\.yaml"))
    return faults


def left_faults() -> list[Fault]:
    compare = ["compare", "a", "b", "--output", "new"]
    kind, name = "what trainings leave", f"config.yaml: {NAME}"
    content = pickle.dumps(Malicious())
    return [
        Fault(kind, name, compare, write("a/config.yaml", YAML), r"config\.yaml"),
        Fault("what ablation leaves", NAME, ABLATION, write(ABLATION_FILE, content), "results"),
        Fault("what proposals leaves", NAME, PROPOSALS, write(PROPOSALS_FILE, content), "partial"),
    ]


FAULTS = [*weights_faults(), *proposal_faults(), *config_faults(), *left_faults()]
