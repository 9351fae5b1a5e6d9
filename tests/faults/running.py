"""
Run a command, and tell how it ended.
"""

import multiprocessing as mp
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import torch

from ohem_d2.engine.digests import digest_file

from .cpu_processes import launch_on_cpu
from .fault import Fault

__all__ = ["GOOD", "OUTCOMES", "Result", "CommandProcess", "run_command", "run_fault"]

# What a fault may end in, and which of it is good.
CLEAR = "clear"  # a message of the command, that names the thing
ACCEPTED = "rightly accepted"
LISTED = "listed on the page"
GOOD = (CLEAR, LISTED, ACCEPTED)
OUTCOMES = (
    *GOOD,
    "unnamed",  # a message that does not name the thing
    "traceback",
    "silent",  # the command succeeds, though it should not
    "refused",  # the command fails, though it should not
    "loss",  # what was there is changed or gone
    "code run",  # from a file
    "outside",  # the command writes outside its folder
    "hang",
)

FORK = mp.get_context("fork")
TIMEOUT = 300  # seconds
# Made by malicious files.
SENTINEL = "was_run"
# What commands are told to write.
OUTPUTS = ("new", "a/", "inspection/", "output/")
# What every training, resumed or not, writes anew or adds to.
LOGS = re.compile(r"log\.txt|config\.yaml|events\.|\.lock|__pycache__")


class Result(NamedTuple):
    kind: str
    name: str
    reader: str
    outcome: str  # one of OUTCOMES
    message: str  # the last lines that the command has printed


class CommandProcess(FORK.Process):  # type: ignore[name-defined,misc]
    """
    Runs `ohem-d2` in a process in which everything is imported already.
    """

    def __init__(self, command: Sequence[str], folder: Path, max_file_size: int = 0) -> None:
        """
        Args:
            command: the arguments.
            folder (Path): to run in.
            max_file_size (int): see :class:`Fault`.
        """
        super().__init__()
        self._command, self._folder, self._max_file_size = command, folder, max_file_size
        # Not a file: the size of files may be limited.
        self._read_end, self._write_end = os.pipe()
        self._printed = b""
        self.start()
        os.close(self._write_end)
        self._reader = Thread(target=self._read)
        self._reader.start()

    def run(self) -> None:
        os.dup2(self._write_end, 1)
        os.dup2(self._write_end, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (a test may have replaced them)
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        if self._max_file_size:
            limit = self._max_file_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        os.chdir(self._folder)
        sys.path.insert(0, "")
        sys.argv = ["ohem-d2", *self._command]
        from ohem_d2.__main__ import main
        from ohem_d2.commands import command_line

        if not torch.cuda.is_available():
            command_line.launch = launch_on_cpu
        main()

    def wait(self) -> tuple[int | None, str]:
        """
        Returns:
            (int | None, str): the exit code, None if it or a process that it has started lives
            after TIMEOUT, and what was printed.
        """
        self.join(TIMEOUT)
        code = self.exitcode
        if code is None:
            self.kill()
            self.join()
        # The processes that it has started print to it, too.
        self._reader.join(TIMEOUT)
        if self._reader.is_alive():
            code = None
        return code, self._printed.decode(errors="replace")

    def _read(self) -> None:
        with open(self._read_end, "rb") as file:
            self._printed = file.read()


def run_command(
    command: Sequence[str], folder: Path, max_file_size: int = 0
) -> tuple[int | None, str]:
    """
    See :class:`CommandProcess`.
    """
    return CommandProcess(command, folder, max_file_size).wait()


def run_fault(fault: Fault, sound: Path) -> Result:
    """
    Args:
        sound (Path): from :func:`make_sound_folder`. It is not changed.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "folder")
        shutil.copytree(sound, folder, symlinks=True)
        fault.spoil(folder)
        before = _digests(folder)
        code, printed = run_command(fault.command, folder, fault.max_file_size)
        message = _last_lines(printed)
        outcome = _judge(fault, folder, code, printed)
        after = _digests(folder)
        # A resumed training that goes on replaces what is in its folder. If it fails, checkpoints
        # stay.
        goes_on = "Starting training from iteration" in printed
        replaced = re.compile("a/" if not code else r"a/(?![^/]*\.pth|last_checkpoint)")
        kept = {k: v for k, v in before.items() if not (goes_on and replaced.match(k))}
        if outcome in GOOD and any(after.get(k) != v for k, v in kept.items()):
            outcome = "loss"
        new = after.keys() - before.keys()
        if any(x.endswith(".unfinished") for x in new):
            outcome = "loss"
        is_inside = os.listdir(root) == ["folder"] and all(x.startswith(OUTPUTS) for x in new)
        if outcome != "code run" and not is_inside:
            outcome = "outside"
        message = message.replace(f"{folder}/", "").replace(root, "")
    return Result(fault.kind, fault.name, fault.reader, outcome, message)


def _judge(fault: Fault, folder: Path, code: int | None, printed: str) -> str:
    if (folder / SENTINEL).exists():
        return "code run"
    if code is None:
        return "hang"
    if "Traceback (most recent call last)" in printed:
        return "traceback"
    if fault.page:
        page = folder / fault.page
        found = not code and page.exists() and re.search(fault.message, page.read_text())
        return LISTED if found else "silent" if not code else "refused"
    if not fault.message:
        return "refused" if code else ACCEPTED
    if not code:
        return "silent"
    return CLEAR if re.search(fault.message, _last_lines(printed)) else "unnamed"


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(x.relative_to(folder)): digest_file(x)
        for x in sorted(folder.rglob("*"))
        if x.is_file() and os.access(x, os.R_OK) and not LOGS.search(str(x.relative_to(folder)))
    }


def _last_lines(printed: str) -> str:
    """
    Returns:
        str: the message of the command. `check` prints findings instead.
    """
    starts = [x.start() for x in re.finditer(r"(?m)^ohem-d2 ", printed)]
    if starts:
        return printed[starts[-1] :].strip()
    return "\n".join(printed.strip().splitlines()[-20:])
