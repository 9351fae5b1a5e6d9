"""
What a fault is, and the commands that meet it.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from ohem_d2.data.datasets.by_path import folder_name

__all__ = [
    "BINARY",
    "COCO",
    "CONFIG",
    "FAST_RCNN",
    "Fault",
    "Spoil",
    "VOC",
    "WEIGHTS",
    "accepted",
    "all_of",
    "edit",
    "nothing",
    "readers_of_dataset",
    "readers_of_weights",
    "refused",
    "remove",
    "replace_by_folder",
    "write",
]

Spoil = Callable[[Path], object]

# Datasets of the sound folder.
VOC = "voc:voc:all"
COCO = "coco:coco.json:voc/JPEGImages"
# Its configs and weights.
CONFIG = ["--config-file", "config.yaml"]
FAST_RCNN = ["--config-file", "fast_rcnn.yaml"]
WEIGHTS = "a/model_final.pth"

BINARY = bytes(range(256)) * 4


class Fault(NamedTuple):
    """
    Something that is wrong with a sound input, and a command that reads it.
    """

    kind: str  # of input
    name: str  # what is wrong
    command: list[str]
    spoil: Spoil  # makes it so, in a sound folder
    # What the message of the command must match, in a case-sensitive search. Empty: the command
    # rightly gets along with it.
    message: str
    page: str = ""  # a file that the command writes and that must match `message` instead
    max_file_size: int = 0  # bytes that a file may have, as if the disk were full. 0: any

    @property
    def reader(self) -> str:
        """
        The name of the command in tables.
        """
        modes = [x for x in self.command if x in ("--eval-only", "--resume")]
        return " ".join([self.command[0], *modes])


def readers_of_dataset(name: str) -> dict[str, list[str]]:
    """
    Args:
        name (str): VOC, COCO, or another dataset with the same images.

    Returns:
        dict[str, list[str]]: each command that reads a dataset, with its arguments.
    """
    value = f"('{name}',)"
    weights = ["MODEL.WEIGHTS", WEIGHTS]
    detections = f"a/inference/{folder_name(name)}"
    if name == COCO:
        detections += "/coco_instances_results.json"
    return {
        "train": ["train", *CONFIG, "DATASETS.TRAIN", value, "DATASETS.TEST", value],
        "evaluation": ["train", *CONFIG, "--eval-only", "DATASETS.TEST", value, *weights],
        "inspect": [
            *("inspect", *CONFIG, "--output", "new"),
            *("DATASETS.TRAIN", value, "DATASETS.TEST", value, *weights),
        ],
        "ablation": [
            *("ablation", *CONFIG, "--weights", WEIGHTS, "--output", "new"),
            *("DATASETS.TRAIN", value, "DATASETS.TEST", value),
        ],
        "roi-loss": ["roi-loss", "a", "DATASETS.TRAIN", value, "DATASETS.TEST", value],
        "check": ["check", name],
        "proposals": ["proposals", name, "new.pkl", "--processes", "0"],
        "evaluate": ["evaluate", name, detections],
        "compare": ["compare", "a", "b", "--output", "new"],
        "convert-proposals": ["convert-proposals", name, "boxes.mat", "new.pkl"],
    }


def readers_of_weights(config: list[str], weights: str = WEIGHTS) -> list[list[str]]:
    """
    Returns:
        list[list[str]]: each command that reads a trained model, with its arguments.
    """
    return [
        ["train", *config, "--eval-only", "MODEL.WEIGHTS", weights],
        ["inspect", *config, "--output", "new", "MODEL.WEIGHTS", weights],
        ["ablation", *config, "--weights", weights, "--output", "new"],
    ]


def refused(
    kind: str,
    cases: Mapping[str, tuple[Spoil, str]],
    commands: Iterable[list[str]],
    file: str = "",
) -> list[Fault]:
    """
    Args:
        cases: by what is wrong: how, and what the message of each command must match,
        file (str): after this.
    """
    before = f"(?s){file}.*" if file else ""
    return [
        Fault(kind, name, command, spoil, f"{before}{words}")
        for (name, (spoil, words)), command in product(cases.items(), commands)
    ]


def accepted(kind: str, cases: Mapping[str, Spoil], commands: Iterable[list[str]]) -> list[Fault]:
    """
    Args:
        cases: what seems wrong, and each command gets along with.
    """
    return refused(kind, {name: (spoil, "") for name, spoil in cases.items()}, commands)


def write(name: str, content: str | bytes) -> Spoil:
    """
    Args:
        name (str): a file in the sound folder.
        content: what it shall hold.
    """

    def spoil(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return spoil


def edit(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """
    Args:
        change: makes the new content of a file of the sound folder from the old one.
    """

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def replace_by_folder(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def all_of(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for x in spoils:
            x(folder)

    return spoil


def nothing(folder: Path) -> None:
    """
    For faults that are in the command itself.
    """
