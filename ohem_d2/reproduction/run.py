"""
Run steps, each in a process of its own, and record how each was made.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from queue import SimpleQueue

import torch
from detectron2 import __version__ as detectron2_version

from .. import __version__
from ..utils import InputError, write_json
from .settings import Settings
from .steps import Step

__all__ = ["environment", "run_chains", "run_shared"]

LAST_LINES = 15  # of the log of a failed step


def environment(settings: Settings) -> dict[str, str]:
    """
    Returns:
        dict[str, str]: of the commands.
    """
    # detectron2 looks for its datasets there when it is imported.
    return {**os.environ, "DETECTRON2_DATASETS": str(settings.datasets.absolute())}


def full_command(step: Step) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "ohem_d2", *step.command]


def run_shared(steps: Sequence[Step], settings: Settings) -> None:
    """
    Run steps one by one. They show their progress, on stderr.

    Raises:
        InputError: if one fails.
    """
    for i, step in enumerate(steps, start=1):
        if step.is_done():
            continue
        print(f"{i}/{len(steps)} {step.title}", flush=True)
        step.done.parent.mkdir(parents=True, exist_ok=True)
        process = subprocess.run(
            full_command(step), env=environment(settings), stdout=subprocess.PIPE, text=True
        )
        if process.returncode:
            print(process.stdout, end="", flush=True)
            raise InputError(f"{step.title} failed: ohem-d2 {shlex.join(step.command)}")
        _record(step)


def run_chains(
    chains: Sequence[Sequence[Step]],
    settings: Settings,
    jobs: int,
    after_each: Callable[[], object],
) -> list[str]:
    """
    Args:
        chains: each is run in order, up to the first step that fails.
        jobs (int): how many at once, on different GPUs.
        after_each: called after each chain.

    Returns:
        list[str]: what has failed, and why.
    """
    slots: SimpleQueue[dict[str, str]] = SimpleQueue()
    for x in _slots(jobs, settings.num_gpus):
        slots.put(x)
    remaining = [x for x in chains if not all(step.is_done() for step in x)]

    def run(chain: Sequence[Step]) -> str:
        slot = slots.get()
        try:
            for step in chain:
                if not step.is_done():
                    _run(step, {**environment(settings), **slot})
        except InputError as e:
            return str(e)
        finally:
            slots.put(slot)
        return ""

    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, x) for x in remaining]
        try:
            for i, future in enumerate(as_completed(futures), start=1):
                failure = future.result()
                if failure:
                    failures.append(failure)
                    print(failure, flush=True)
                after_each()
                print(f"{i} of {len(remaining)} trainings done", flush=True)
        except BaseException:  # a KeyboardInterrupt, which the commands have received as well
            pool.shutdown(cancel_futures=True)
            raise
    return failures


def _slots(jobs: int, num_gpus: int) -> list[dict[str, str]]:
    """
    Returns:
        for each job the variables of the environment that give it a part of the machine.
    """
    if not torch.cuda.is_available():
        threads = max(len(os.sched_getaffinity(0)) // jobs, 1)
        return [{"OMP_NUM_THREADS": str(threads)} for _ in range(jobs)]
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    parts = [gpus[i * num_gpus : (i + 1) * num_gpus] for i in range(jobs)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(x)} for x in parts]


def _run(step: Step, variables: dict[str, str]) -> None:
    """
    Run a step, and write its record.

    Raises:
        InputError: if it fails.
    """
    folder = step.done.parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "console.txt"
    print(f"{step.title}: see {log}", flush=True)
    began = time.monotonic()
    with open(log, "a") as file:
        process = subprocess.run(
            full_command(step), env=variables, stdout=file, stderr=subprocess.STDOUT
        )
    if process.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise InputError(f"{step.title} failed:\n{last}\nAll of its output: {log}")
    _record(step)
    print(f"{step.title}: {(time.monotonic() - began) / 3600:.2f} h", flush=True)


def _record(step: Step) -> None:
    """
    Write what a result depends on, unless the command has written the file itself.
    """
    if step.is_done():
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    record = {
        "command": f"ohem-d2 {shlex.join(step.command)}",
        "ohem_d2": __version__ + _commit(),
        "torch": torch.__version__,
        "detectron2": detectron2_version,
        "device": device,
        "date": date.today().isoformat(),
    }
    write_json(step.done, record)


def _commit() -> str:
    """
    Returns:
        str: that of the clone which the package is in, such as " (c663303)"; "+": it differs. Empty
        if it is in none.
    """
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+"]
    process = subprocess.run(command, capture_output=True, text=True)
    return f" ({process.stdout.strip()})" if process.returncode == 0 else ""
