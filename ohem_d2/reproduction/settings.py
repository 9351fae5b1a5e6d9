"""
How the rows are run: what the command line sets for all of them.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from ..engine import load_config
from ..utils import InputError, write_json
from .rows import Training

__all__ = ["Settings"]

# However far a schedule is scaled down: detectron2 takes no time of the first three iterations.
MIN_ITERATIONS = 5


class Settings(NamedTuple):
    datasets: Path  # DETECTRON2_DATASETS
    output: Path
    weights: dict[str, Path]  # by network: the classifier's, to be converted
    boxes: Path | None  # a folder with the .mat files of Fast R-CNN's authors. None: compute them
    scale: float  # of the schedules
    num_gpus: int  # of each training
    opts: Sequence[str]  # config options

    def keep(self) -> None:
        """
        Write settings.json, so that runs with other settings are not mixed.

        Raises:
            InputError: if the folder has such runs.
        """
        file = self.output / "settings.json"
        ours = {"scale": self.scale, "opts": list(self.opts)}
        if file.exists():
            try:
                theirs = json.loads(file.read_text())
            except ValueError as e:
                raise InputError(f"{file} is not json: {e}") from e
            if theirs != ours:
                raise InputError(
                    f"{self.output} has runs with {theirs}, not {ours}: choose another --output."
                )
            return
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(file, ours)

    def proposal_file(self, dataset: str) -> Path:
        return self.output / "proposals" / f"{dataset}.pkl"

    def weights_file(self, network: str) -> Path:
        return self.output / "weights" / f"{network}.pth"

    def folder(self, training: Training, seed: int) -> Path:
        """
        Returns:
            Path: OUTPUT_DIR.
        """
        return self.output / "runs" / training.name / f"seed_{seed}"

    def config(self, training: Training) -> CfgNode:
        """
        Returns:
            CfgNode: that of a training, but for its seed and folder.
        """
        cfg = self._given(training).clone()
        cfg.merge_from_list(self._overrides(training))
        return cfg

    def options(self, training: Training) -> list[str]:
        """
        Returns:
            list[str]: what :meth:`config` sets over the config file.
        """
        return [*map(str, (*training.options, *self.opts)), *self._overrides(training)]

    def _given(self, training: Training) -> CfgNode:
        return _load(training.config, (*training.options, *self.opts))

    def _overrides(self, training: Training) -> list[str]:
        cfg = self._given(training)
        solver, datasets = cfg.SOLVER, cfg.DATASETS
        max_iter = self._scaled(training.max_iter or solver.MAX_ITER, MIN_ITERATIONS)
        steps = [self._scaled(x) for x in solver.STEPS]
        options = {
            "SOLVER.MAX_ITER": max_iter,
            "SOLVER.STEPS": tuple(x for x in dict.fromkeys(steps) if x < max_iter),
            "SOLVER.CHECKPOINT_PERIOD": self._scaled(solver.CHECKPOINT_PERIOD),
            "MODEL.WEIGHTS": str(self.weights_file(self.network(training))),
            "DATASETS.PROPOSAL_FILES_TRAIN": self._proposal_files(datasets.TRAIN),
            "DATASETS.PROPOSAL_FILES_TEST": self._proposal_files(datasets.TEST),
        }
        return [str(x) for pair in options.items() for x in pair]

    def network(self, training: Training) -> str:
        """
        Returns:
            str: of NETWORKS.
        """
        return Path(_load(training.config, ()).MODEL.WEIGHTS).stem

    def _scaled(self, iterations: int, at_least: int = 1) -> int:
        return max(round(iterations * self.scale), at_least)

    def _proposal_files(self, datasets: Sequence[str]) -> tuple[str, ...]:
        return tuple(str(self.proposal_file(x)) for x in datasets)


@cache  # each check asks for each training's
def _load(config: str, options: tuple[Any, ...]) -> CfgNode:
    return load_config(config, options)
