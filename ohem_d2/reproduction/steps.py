"""
The steps in which rows are run, each a command.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .inputs import needed_datasets, needed_networks
from .rows import PLAIN, Row, Training, trainings_of
from .settings import Settings

__all__ = ["FINISHED", "Step", "plan_chains", "plan_shared", "test_folder"]

FINISHED = "finished.json"


class Step(NamedTuple):
    title: str
    command: tuple[str, ...]  # of ohem-d2
    # The file that is there when it is finished: what the command writes, or else a record of it.
    done: Path

    def is_done(self) -> bool:
        return self.done.exists()


def test_folder(settings: Settings, training: Training, seed: int, test: str) -> Path:
    return settings.folder(training, seed) / "tests" / test


def plan_shared(rows: Sequence[Row], settings: Settings) -> list[Step]:
    """
    Returns:
        list[Step]: proposals and weights, which trainings share.
    """
    names = needed_datasets(rows, settings)
    steps = []
    for name in names:
        done = settings.output / "checked" / f"{name}.json"
        steps.append(Step(f"check of {name}", ("check", "--annotations-only", name), done))
    for name in names:
        file = settings.proposal_file(name)
        if settings.boxes is None:
            steps.append(Step(f"proposals of {name}", ("proposals", name, str(file)), file))
        else:
            boxes = str(settings.boxes / f"{name}.mat")
            steps.append(
                Step(f"proposals of {name}", ("convert-proposals", name, boxes, str(file)), file)
            )
    for network in needed_networks(rows, settings):
        row = next(x for x in rows if settings.network(x.training) == network)
        file = settings.weights_file(network)
        # A dry run may be without them.
        given = str(settings.weights.get(network, f"<weights of {network}>"))
        convert = (
            *("convert-weights", "--config-file", row.training.config),
            *(given, str(file), *settings.opts),
        )
        steps.append(Step(f"weights of {network}", convert, file))
    return steps


def plan_chains(
    rows: Sequence[Row], settings: Settings, seeds: Sequence[int], measured: Sequence[Row]
) -> list[list[Step]]:
    """
    Args:
        measured: the rows of Figure 3.

    Returns:
        list[list[Step]]: for each training and seed its steps, in order. All trainings with the
        first seed come first.
    """
    chains = []
    for seed in seeds:
        for training in trainings_of(rows):
            folder = settings.folder(training, seed)
            about = f"{training.name}, seed {seed}"
            options = [*settings.options(training), "SEED", str(seed), "OUTPUT_DIR", str(folder)]
            train = (
                *("train", "--resume", "--config-file", training.config),
                *("--num-gpus", str(settings.num_gpus), *options),
            )
            chain = [Step(f"training {about}", train, folder / FINISHED)]
            tests = dict.fromkeys(x.test for x in rows if x.training == training)
            for test in (x for x in tests if x != PLAIN):
                output = test_folder(settings, training, seed, test)
                weights = str(folder / "model_final.pth")
                test_command = (
                    *("ablation", "--config-file", training.config, "--weights", weights),
                    *("--row", test, "--output", str(output), *settings.options(training)),
                )
                chain.append(Step(f"testing {about}: {test}", test_command, output / FINISHED))
            if any(x.training == training for x in measured):
                done = folder / "roi_loss" / FINISHED
                chain.append(
                    Step(f"loss over all RoIs of {about}", ("roi-loss", str(folder)), done)
                )
            chains.append(chain)
    return chains
