import importlib
import os
import sys

from ..utils import InputError

__all__ = ["import_module"]


def import_module(name: str) -> None:
    """
    Import a module of the user's that registers datasets, as from the folder where a tool is run.

    Raises:
        InputError: if that fails for want of a module.
    """
    sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"--import {name}: {e}") from e
