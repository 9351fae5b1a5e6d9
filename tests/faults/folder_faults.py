"""
Where commands write: full disks, folders that cannot be written to or that another training has,
and names that lead elsewhere.
"""

import fcntl
from pathlib import Path

from .fault import (
    COCO,
    CONFIG,
    VOC,
    WEIGHTS,
    Fault,
    Spoil,
    nothing,
    readers_of_dataset,
    readers_of_weights,
    write,
)

__all__ = ["FAULTS"]

COMP4 = "a/inference/voc_voc_all"
# What writes, with the option that names the output last; and a size that its files exceed.
WRITERS: dict[str, tuple[list[str], int]] = {
    "train": (["train", *CONFIG, "OUTPUT_DIR"], 100_000),
    "evaluation": (["train", *CONFIG, "--eval-only", "MODEL.WEIGHTS", WEIGHTS, "OUTPUT_DIR"], 300),
    "inspect": (["inspect", *CONFIG, "MODEL.WEIGHTS", WEIGHTS, "--output"], 3000),
    "ablation": (["ablation", *CONFIG, "--weights", WEIGHTS, "--output"], 300),
    "compare": (["compare", "a", "b", "--output"], 10_000),
    "evaluate": (["evaluate", VOC, COMP4, "--output"], 300),
    "proposals": (["proposals", VOC, "--processes", "0"], 300),
    "convert-proposals": (["convert-proposals", VOC, "boxes.mat"], 100),
    "convert-weights": (
        ["convert-weights", *CONFIG, "--other-input", "classifier.pth"],
        1000,
    ),
}
IS_FILE = {"proposals": "pkl", "convert-proposals": "pkl", "convert-weights": "pth"}


def disk_faults() -> list[Fault]:
    faults = []
    for name, (command, max_size) in WRITERS.items():
        suffix = f".{IS_FILE[name]}" if name in IS_FILE else ""
        full = Fault("disks", "full", [*command, f"new{suffix}"], nothing, "new")
        faults.append(full._replace(max_file_size=max_size))
        # Not even root may write there.
        for place in ("/proc/new", "config.yaml/new"):
            message = r"/proc/new|config\.yaml/new|config\.yaml"
            faults.append(
                Fault("disks", f"output {place}", [*command, place + suffix], nothing, message)
            )
    resumed = ["train", *CONFIG, "--resume", "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", "a"]
    full = Fault("disks", "full", resumed, nothing, r"model_0000002\.pth cannot be")
    faults.append(full._replace(max_file_size=100_000))
    return faults


def _lock(folder: Path) -> None:
    # Held until the process that tries the faults ends, or the file is closed.
    file = open(folder / "a/.lock", "a")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    LOCKS.append(file)


LOCKS: list[object] = []


def lock_faults() -> list[Fault]:
    command = ["train", *CONFIG, "OUTPUT_DIR", "a"]
    return [
        Fault("disks", "another training in OUTPUT_DIR", x, _lock, "Another training")
        for x in (command, [*command[:3], "--resume", *command[3:]])
    ]


def _rename(old: str, new: str) -> Spoil:
    """
    Another name for a class, everywhere.
    """

    def spoil(folder: Path) -> None:
        for file in folder.glob("voc/Annotations/*.xml"):
            text = file.read_text()
            file.write_text(text.replace(f"<name>{old}<", f"<name>{new}<"))
        file = folder / "coco.json"
        name = new.replace("&lt;", "<").replace("&amp;", "&")
        file.write_text(file.read_text().replace(f'"{old}"', f'"{name}"'))

    return spoil


NAMES = {
    "a class with markup": "&lt;img src=x onerror=alert(1)>",
    "a class with a slash": "n/a",
    "a class that is a path": "../../../cat",
    "a class with blanks": "a  big cat",
    "a class of another script": "猫",
    "a class with quotes": "cat's \"",
    "a class with a percent sign": "50%",
}


def _register(name: str) -> Spoil:
    """
    A dataset of this name, with the images of the others.
    """
    return write(
        "my_data.py",
        "from detectron2.data.datasets import register_coco_instances\n"
        "register_coco_instances("
        f"'{name}', {{'thing_classes': ['cat', 'dog']}}, 'coco.json', 'voc/JPEGImages')\n",
    )


def name_faults() -> list[Fault]:
    faults = []
    for name, new in NAMES.items():
        for dataset in (VOC, COCO):
            if '"' in new and dataset == COCO:
                continue  # json would need an escape of its own
            for reader, command in readers_of_dataset(dataset).items():
                if reader in ("train", "inspect", "check", "ablation"):
                    faults.append(Fault("names", name, command, _rename("dog", new), ""))
    for name in ("../../../elsewhere", "a/b", "..", "a b", "C:\\x"):
        text = name.replace("\\", "\\\\")
        value = f"('{text}',)"
        config = [*CONFIG, "--import", "my_data"]
        datasets = ["DATASETS.TRAIN", value, "DATASETS.TEST", value]
        for command in (["train", *config], *readers_of_weights(config)):
            command = [*command, *datasets]
            faults.append(Fault("names", f"a dataset {name}", command, _register(text), ""))
    return faults


FAULTS = [*disk_faults(), *lock_faults(), *name_faults()]
