"""
Where a result comes from. A result counts only if a commit reproduces it, so nothing is recorded
from a changed work tree.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from detectron2 import __version__ as detectron2_version

from ohem_d2.utils import InputError, atomic_file

__all__ = [
    "RESULTS",
    "ROOT",
    "leave_commit",
    "made_by",
    "provenance",
    "read_results",
    "require_clean_commit",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
# The commit of a copy of the work tree that git knows nothing of.
COMMIT_FILE = "output/wheels/commit.json"

PROVENANCE = ("commit", "machine", "torch", "detectron2", "date")


def require_clean_commit() -> None:
    """
    Raises:
        InputError: if the work tree differs from its commit in anything but the recorded results.
    """
    _, changed = _read_commit()
    if changed:
        files = "\n".join(changed[:10])
        raise InputError(
            f"No commit reproduces the results of this work tree; it has changed in\n{files}\n"
            "Commit or stash them, or pass --trial for results that the report does not read."
        )


def provenance() -> dict[str, str]:
    """
    Returns:
        dict[str, str]: what every result is recorded with: the commit ("+" if the work tree
        differs), the machine, the versions of PyTorch and detectron2, and the day.
    """
    commit, changed = _read_commit()
    if torch.cuda.is_available():
        machine = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        machine = f"CPU, {len(os.sched_getaffinity(0))} cores"
    return {
        "commit": commit + ("+" if changed else ""),
        "machine": machine,
        "torch": torch.__version__,
        "detectron2": detectron2_version,
        "date": date.today().isoformat(),
    }


def leave_commit() -> None:
    """
    Write COMMIT_FILE, so that a copy of the work tree without git has a commit.

    Raises:
        InputError: see :func:`require_clean_commit`.
    """
    require_clean_commit()
    files = _git("ls-files", "--", ".", ":!benchmarks/results").splitlines()
    content = {"commit": _read_commit()[0], "files": {x: _digest(ROOT / x) for x in files}}
    path = ROOT / COMMIT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _read_commit() -> tuple[str, list[str]]:
    """
    Returns:
        the commit, and what differs from it, apart from the recorded results.
    """
    try:
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return _git("rev-parse", "--short", "HEAD"), changed.splitlines()
    except (OSError, subprocess.CalledProcessError) as e:
        if not (ROOT / COMMIT_FILE).exists():
            raise InputError(
                f"git cannot tell the commit of {ROOT}: results are recorded from a git checkout, "
                "or from a copy that `make wheels` has prepared there."
            ) from e
    left = json.loads((ROOT / COMMIT_FILE).read_text())
    return left["commit"], [x for x, digest in left["files"].items() if _digest(ROOT / x) != digest]


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return process.stdout.strip()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "missing"


def read_results(
    folder: Path, pattern: str, key: Sequence[str], accept_changed: bool = False
) -> pd.DataFrame:
    """
    Args:
        folder (Path): of files of JSON lines.
        pattern (str): the names of the files.
        key: the fields that tell results apart.
        accept_changed (bool): whether to read lines from a changed work tree, too.

    Returns:
        pd.DataFrame: a row per line; "where" names the file and the line.

    Raises:
        InputError: if a line cannot be read, may not be from a changed work tree and is, or is
            there twice.
    """
    lines = []
    for file in sorted(folder.glob(pattern)):
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{file.name}, line {number}"
            try:
                line = {**dict.fromkeys(key), **json.loads(text), "where": where}
            except (ValueError, TypeError) as e:
                raise InputError(f"{where} is not a JSON object: {e}") from e
            missing = [x for x in PROVENANCE if x not in line]
            if missing:
                raise InputError(f"{where} lacks {', '.join(missing)}.")
            if line["commit"].endswith("+") and not accept_changed:
                raise InputError(f"{where} was recorded from a changed work tree: delete the line.")
            lines.append(line)
    results = pd.DataFrame(lines, columns=None if lines else [*{*key, *PROVENANCE, "where"}])
    for row in results[results.duplicated(list(key))].to_dict("records"):
        raise InputError(f"{row['where']} repeats the result of {[row[x] for x in key]}.")
    return results


def made_by(command: str, results: pd.DataFrame) -> str:
    """
    Returns:
        str: the line below a table: how and where its results were made.
    """
    values = {x: ", ".join(sorted(set(results[x]))) for x in PROVENANCE}
    return (
        f"<sub>`{command}`; {values['machine']}; commit {values['commit']}; "
        f"PyTorch {values['torch']}; detectron2 {values['detectron2']}; {values['date']}</sub>"
    )
