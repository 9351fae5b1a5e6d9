"""
Where a measured number comes from.
"""

import os
import subprocess
from datetime import date
from pathlib import Path

import torch
from detectron2 import __version__ as detectron2_version

__all__ = ["provenance"]


def provenance() -> dict[str, str]:
    """
    Returns:
        dict[str, str]: what to write beside every result: the commit of this project ("+" if files
        differ from it), the machine, the versions of PyTorch and detectron2, and the day.
    """
    return {
        "commit": _commit(),
        "machine": _machine(),
        "torch": torch.__version__,
        "detectron2": detectron2_version,
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not a checkout
        return "unknown"


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {len(os.sched_getaffinity(0))} cores"
