"""
What the rows need, and what of it is missing.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.selective_search import import_segmentation
from ..engine.digests import digest_file
from .rows import Row, trainings_of
from .settings import Settings

__all__ = ["find_missing", "needed_datasets", "needed_networks", "notes"]

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"


class Source(NamedTuple):
    files: tuple[str, ...]  # relative to the folder of all datasets
    remedy: str


def _voc(year: int, split: str, archive: str) -> Source:
    folder = f"VOC{year}"
    parts = (
        f"{folder}/ImageSets/Main/{split}.txt",
        f"{folder}/Annotations",
        f"{folder}/JPEGImages",
    )
    return Source(parts, f"unpack {VOC}/voc{year}/{archive}, and move its VOCdevkit/{folder} there")


def _coco(split: str) -> Source:
    return Source(
        (f"coco/annotations/instances_{split}.json", f"coco/{split}"),
        f"unpack {COCO}/zips/{split}.zip and {COCO}/annotations/annotations_trainval2014.zip there",
    )


SOURCES = {
    "voc_2007_trainval": _voc(2007, "trainval", "VOCtrainval_06-Nov-2007.tar"),
    "voc_2007_test": _voc(2007, "test", "VOCtest_06-Nov-2007.tar"),
    "voc_2012_trainval": _voc(2012, "trainval", "VOCtrainval_11-May-2012.tar"),
    "voc_2012_test": Source(
        ("VOC2012/ImageSets/Main/test.txt", "VOC2012/JPEGImages"),
        "its images come from the evaluation server, http://host.robots.ox.ac.uk:8080: unpack "
        "them, and move VOCdevkit/VOC2012 there",
    ),
    "coco_2014_train": _coco("train2014"),
    "coco_2014_val": _coco("val2014"),
}


class Weights(NamedTuple):
    option: str  # of the command line
    source: str
    sha256: str  # what it begins with. Empty: unknown


WEIGHTS = {
    "VGG16": Weights(
        "--weights", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"
    ),
    "VGG_CNN_M_1024": Weights(
        "--vgg-m-weights",
        "VGG_CNN_M_1024.v2.caffemodel of Fast R-CNN's authors, from their fetch_imagenet_models.sh",
        "",
    ),
}


def needed_datasets(rows: Sequence[Row], settings: Settings) -> list[str]:
    """
    Returns:
        list[str]: to train and test on, in the order of the rows.
    """
    configs = [settings.config(x).DATASETS for x in trainings_of(rows)]
    return list(dict.fromkeys(name for x in configs for name in (*x.TRAIN, *x.TEST)))


def needed_networks(rows: Sequence[Row], settings: Settings) -> list[str]:
    return list(dict.fromkeys(settings.network(x) for x in trainings_of(rows)))


def find_missing(rows: Sequence[Row], settings: Settings, disk: float, jobs: int) -> list[str]:
    """
    Args:
        disk (float): bytes that the trainings write.
        jobs (int): trainings at once.

    Returns:
        list[str]: all that is missing, with the remedy.
    """
    return [
        *_missing_datasets(rows, settings),
        *_missing_weights(rows, settings),
        *_missing_proposals(rows, settings),
        *_missing_disk(settings.output, disk),
        *_missing_gpus(rows, settings, jobs),
    ]


def _missing_datasets(rows: Sequence[Row], settings: Settings) -> Iterator[str]:
    for name in needed_datasets(rows, settings):
        source = SOURCES.get(name, Source((), ""))  # or a user's own, in the options
        missing = [x for x in source.files if not (settings.datasets / x).exists()]
        if missing:
            listed = ", ".join(missing)
            yield f"{name}: there is no {listed} in {settings.datasets}: {source.remedy}."


def _missing_weights(rows: Sequence[Row], settings: Settings) -> Iterator[str]:
    for network in needed_networks(rows, settings):
        given = settings.weights.get(network)
        if settings.weights_file(network).exists():
            continue
        option, source, _ = WEIGHTS[network]
        if given is None:
            yield f"{network}: name its weights with {option}: {source}."
        elif not given.is_file():
            yield f"{network}: {option} is {given}, which is not a file: {source}."


def _missing_proposals(rows: Sequence[Row], settings: Settings) -> Iterator[str]:
    missing = [x for x in needed_datasets(rows, settings) if not settings.proposal_file(x).exists()]
    if settings.boxes is not None:
        for name in missing:
            file = settings.boxes / f"{name}.mat"
            if not file.exists():
                yield f"{name}: --boxes has no {file.name}. Without --boxes, they are computed."
    elif missing:
        try:
            import_segmentation()
        except ImportError as e:
            yield f"proposals: {e}"


def _missing_disk(output: Path, disk: float) -> Iterator[str]:
    existing = next(x for x in (output, *output.absolute().parents) if x.exists())
    free = shutil.disk_usage(existing).free
    if free < disk:
        needed = f"the checkpoints take {disk / 1e9:.0f} GB"
        yield f"disk: {needed}, and {existing} has {free / 1e9:.0f}: choose another --output."


def _missing_gpus(rows: Sequence[Row], settings: Settings, jobs: int) -> Iterator[str]:
    found = torch.cuda.device_count()
    needed = settings.num_gpus * (jobs if found else 1)
    if needed > max(found, 1):
        yield f"GPUs: {jobs} trainings at once need {needed}, and there are {found}."
    for training in trainings_of(rows):
        images = settings.config(training).SOLVER.IMS_PER_BATCH
        if images % settings.num_gpus:
            yield (
                f"GPUs: {training.name} trains on {images} images at once, which "
                f"{settings.num_gpus} GPUs cannot share: take fewer with --num-gpus, or other "
                "--rows."
            )


def notes(rows: Sequence[Row], settings: Settings) -> Iterator[str]:
    """
    Returns:
        what stops nothing, but should be known.
    """
    if not torch.cuda.is_available():
        yield "There is no GPU: everything runs on the CPU."
    for network in needed_networks(rows, settings):
        file, sha256 = settings.weights.get(network), WEIGHTS[network].sha256
        if file is not None and file.is_file() and not digest_file(str(file)).startswith(sha256):
            name = Path(WEIGHTS[network].source).name
            yield f"{file} is not {name}: its SHA-256 does not begin with {sha256}."
