"""
Trainings that are killed at random moments, and resumed until they end.
"""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from .cpu_processes import processes_of
from .running import CommandProcess, run_command

__all__ = ["VARIANTS", "KillReport", "kill_trainings"]

COMMAND = ["train", "--config-file", "config.yaml", "--resume"]
OPTIONS = [
    *("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "15"),
    *("MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "DATASETS.TEST", "('voc:voc:all',)"),
]
VARIANTS = {
    "images loaded by the training": [],
    # A kill is one of a worker, or of the training.
    "two workers": ["DATALOADER.NUM_WORKERS", "2"],
    "gradient accumulation": ["SOLVER.ACCUMULATION_PASSES", "2"],
    "mining in a pool, random foreground": [
        *("MODEL.OHEM.POOL_SIZE", "60", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"),
        *("MODEL.OHEM.FOREGROUND", "sampled"),
    ],
    # A kill is one of them, or of the process that has started them.
    "two processes": ["--num-gpus", "2"],
}


class KillReport(NamedTuple):
    """
    What the kills of a variant have left.
    """

    variant: str
    kills: int
    trainings: int  # that were killed and resumed until they ended
    equal: int  # of these, end with the weights of the training that was not killed, to the bit
    problems: list[str]  # anything that was half written or missing after a kill


def kill_trainings(sound: Path, variant: str, kills: int, seed: int = 0) -> KillReport:
    """
    Args:
        sound (Path): from :func:`make_sound_folder`.
        variant (str): one of VARIANTS.
        kills (int): in all, over as many trainings as it takes.
    """
    moments = random.Random(seed)
    command = [*COMMAND, *VARIANTS[variant], *OPTIONS, "OUTPUT_DIR"]
    done = trainings = equal = 0
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "folder")
        shutil.copytree(sound, folder)
        began = time.monotonic()
        code, printed = run_command([*command, "whole"], folder)
        duration = time.monotonic() - began
        if code:
            raise RuntimeError(printed[-2000:])
        name = "killed"
        while done < kills:
            has_ended, done_before = False, done
            while not has_ended and done < kills:
                process = CommandProcess([*command, name], folder)
                process.join(moments.uniform(0, duration))
                has_ended = process.exitcode is not None
                if not has_ended:
                    os.kill(moments.choice(processes_of(process.pid)), signal.SIGKILL)
                    done += 1
                code, printed = process.wait()
                if has_ended and code:
                    problems.append(printed[-500:])
                elif code is None:
                    problems.append("A process lives on without the one that was killed.")
                problems += _find_problems(folder / name)
            if not has_ended:
                code, printed = run_command([*command, name], folder)
                if code:
                    problems.append(printed[-500:])
            is_equal = _are_equal(folder / "whole", folder / name)
            if done > done_before:
                trainings += 1
                equal += is_equal
            shutil.rmtree(folder / name)
    return KillReport(variant, done, trainings, equal, problems)


def _find_problems(folder: Path) -> list[str]:
    """
    Returns:
        list[str]: what is half written. Work that a resumed run removes has a name of its own.
    """
    problems = []
    for file in folder.glob("*.pth"):
        try:
            torch.load(file, weights_only=False)
        except Exception as e:  # which one depends on the bytes
            problems.append(f"{file.name}: {e}")
    last = folder / "last_checkpoint"
    if last.exists() and not (folder / last.read_text()).is_file():
        problems.append(f"last_checkpoint names {last.read_text()!r}")
    for file in folder.glob("results.json"):
        try:
            json.loads(file.read_text())
        except ValueError as e:
            problems.append(f"{file.name}: {e}")
    return problems


def _are_equal(whole: Path, killed: Path) -> bool:
    a, b = (torch.load(x / "model_final.pth", weights_only=False) for x in (whole, killed))
    expected, iterations = _iterations(whole), _iterations(killed)
    # A training whose loader was killed has logged its last iteration, too.
    logs_each_once = len(set(iterations)) == len(iterations) and set(expected) <= set(iterations)
    return logs_each_once and all(torch.equal(x, b["model"][k]) for k, x in a["model"].items())


def _iterations(folder: Path) -> list[int]:
    """
    Returns:
        list[int]: of the lines of metrics.json with a loss.
    """
    lines = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    return [x["iteration"] for x in lines if "total_loss" in x]
