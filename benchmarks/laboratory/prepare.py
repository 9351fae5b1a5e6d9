"""
What the runs of a laboratory share: photographs, the backbone's weights, and proposals.
"""

import argparse
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from benchmarks.laboratory.datasets import check_data, register
from benchmarks.laboratory.experiments import CONFIGS
from benchmarks.laboratory.laboratories import DATASETS, LABORATORIES
from benchmarks.provenance import ROOT
from ohem_d2.commands import compute_proposals, convert_weights
from ohem_d2.engine import load_config
from ohem_d2.utils import InputError, atomic_file

__all__ = ["Materials", "add_arguments", "convert_classifier", "prepare", "scale_biases"]


class Materials(NamedTuple):
    laboratory: str
    data: Path  # the folder of the datasets
    train_split: str  # image sets of theirs
    test_split: str
    backbone: Path  # its checkpoint
    proposals: Path  # the folder of their files

    def to_json(self) -> str:
        return json.dumps([str(x) for x in self])

    @classmethod
    def from_json(cls, text: str) -> "Materials":
        laboratory, data, train_split, test_split, *paths = json.loads(text)
        return cls(laboratory, Path(data), train_split, test_split, *map(Path, paths))

    @property
    def config(self) -> str:
        return str(CONFIGS / LABORATORIES[self.laboratory].config)

    @property
    def has_proposals(self) -> bool:
        return load_config(self.config).MODEL.LOAD_PROPOSALS

    def options(self, dataset: str) -> dict[str, Any]:
        """
        Register a dataset.

        Returns:
            dict[str, Any]: options of the config.
        """
        names = register(dataset, self.data, (self.train_split, self.test_split))
        options = {
            "MODEL.ROI_HEADS.NUM_CLASSES": len(DATASETS[dataset].class_names),
            "MODEL.WEIGHTS": str(self.backbone),
            "DATASETS.TRAIN": names[:1],
            "DATASETS.TEST": names[1:],
            # No object of theirs is. Others would look for them in XML files that have all boxes.
            "DATASETS.DIFFICULT": "train",
        }
        if self.has_proposals:
            options["DATASETS.PROPOSAL_FILES_TRAIN"] = (str(self._file(dataset, self.train_split)),)
            options["DATASETS.PROPOSAL_FILES_TEST"] = (str(self._file(dataset, self.test_split)),)
        return options

    def make_proposals(self, dataset: str, processes: int) -> None:
        """
        Compute the proposals of a dataset by selective search, unless they are there.
        """
        splits = (self.train_split, self.test_split)
        names = register(dataset, self.data, splits)
        for name, split in zip(names, splits, strict=True):
            file = self._file(dataset, split)
            if not file.exists():
                print(compute_proposals.run(name, file, "fast", processes))

    def _file(self, dataset: str, split: str) -> Path:
        # Datasets with the same photographs share it.
        return self.proposals / f"{DATASETS[dataset].folder}_{split}.pkl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("laboratory", choices=LABORATORIES)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the datasets")
    parser.add_argument(
        "--classifier", type=Path, required=True, help="weights of the laboratory's classifier"
    )
    parser.add_argument("--train-split", default="train", help="image set (default: train)")
    parser.add_argument("--test-split", default="val", help="image set (default: val)")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "output/laboratory",
        help="the folder for weights and runs",
    )
    parser.add_argument(
        "--proposals",
        type=Path,
        default=ROOT / "output/proposals",
        help="the folder of selective search's boxes, computed if they are not there",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")


def prepare(args: argparse.Namespace, datasets: Sequence[str]) -> Materials:
    """
    Make what is not there yet.

    Args:
        args: what :func:`add_arguments` has parsed.

    Raises:
        InputError: if something is missing.
    """
    lab = LABORATORIES[args.laboratory]
    folder = args.output.resolve() / args.laboratory
    if not args.classifier.is_file():
        raise InputError(f"--classifier {args.classifier} is not a file.")
    materials = Materials(
        args.laboratory,
        args.data.resolve(),
        args.train_split,
        args.test_split,
        folder / "backbone.pth" if lab.classifier else args.classifier.resolve(),
        args.proposals.resolve(),
    )
    for dataset in datasets:
        check_data(dataset, materials.data, (args.train_split, args.test_split))
    folder.mkdir(parents=True, exist_ok=True)
    if lab.classifier:
        convert_classifier(
            materials.config, args.classifier, materials.backbone, lab.classifier_std
        )
    if materials.has_proposals:
        for dataset in datasets:
            materials.make_proposals(dataset, args.jobs)
    return materials


def convert_classifier(
    config: str, classifier: Path, weights: Path, classifier_std: Optional[float] = None
) -> None:
    """
    Make a checkpoint of the backbone of a config from a classifier's weights.

    Args:
        config (str): a file.
        classifier_std (float): what the classifier divides images by: the weights are scaled for
            the config's PIXEL_STD. None if that is the same.

    Raises:
        InputError: if it is not the file of such a classifier.
    """
    with TemporaryDirectory(dir=weights.parent) as folder:
        converted = Path(folder) / "unscaled.pth"
        with redirect_stdout(io.StringIO()):  # the list of all tensors
            convert_weights.convert(Path(config), classifier, converted, bool(classifier_std))
        checkpoint = torch.load(converted)
    if classifier_std:
        pixel_std = load_config(config).MODEL.PIXEL_STD[0]
        scale_biases(checkpoint["model"], pixel_std / classifier_std)
    with atomic_file(weights) as file:
        torch.save(checkpoint, file)


def scale_biases(weights: dict[str, Tensor], divisor: float) -> None:
    """
    Adapt convolutions and ReLUs to images that are divided by `divisor`: all features are then
    divided by it, too. SqueezeNet's features have a deviation of 38 otherwise. Heads are
    initialized for 1: they would begin with a loss of 4.3 instead of ln 7, and boxes would stay
    coarse.
    """
    for name, value in weights.items():
        if name.endswith(".bias"):
            value /= divisor
