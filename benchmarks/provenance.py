"""
Where a result comes from. A result counts only if a commit reproduces it, so nothing is recorded
from a changed work tree.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from detectron2 import __version__ as detectron2_version

from ohem_d2.utils import InputError

__all__ = ["RESULTS", "ROOT", "made_by", "provenance", "read_results", "require_clean_commit"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"

PROVENANCE = ("commit", "machine", "torch", "detectron2", "date")


def require_clean_commit() -> None:
    """
    Raises:
        InputError: if the work tree differs from its commit in anything but the recorded results.
    """
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    if changed:
        files = "\n".join(changed.splitlines()[:10])
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
    try:
        require_clean_commit()
        changed = ""
    except InputError:
        changed = "+"
    if torch.cuda.is_available():
        machine = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        machine = f"CPU, {len(os.sched_getaffinity(0))} cores"
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + changed,
        "machine": machine,
        "torch": torch.__version__,
        "detectron2": detectron2_version,
        "date": date.today().isoformat(),
    }


def _git(*arguments: str) -> str:
    try:
        process = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as e:
        raise InputError(
            f"git cannot tell the commit of {ROOT}: results are recorded from a git checkout."
        ) from e
    return process.stdout.strip()


def read_results(folder: Path, pattern: str, key: Sequence[str]) -> pd.DataFrame:
    """
    Args:
        folder (Path): of files of JSON lines.
        pattern (str): the names of the files.
        key: the fields that tell results apart.

    Returns:
        pd.DataFrame: a row per line; "where" names the file and the line.

    Raises:
        InputError: if a line cannot be read, comes from a changed work tree, or is there twice.
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
            if line["commit"].endswith("+"):
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
