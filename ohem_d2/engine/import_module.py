import importlib
import os
import sys

from ..utils import InputError

__all__ = ["import_module"]


def import_module(name: str) -> None:
    """
    Import the user's module that registers datasets. It may be in the current folder.

    Raises:
        InputError: if it, or a module that it imports, is missing.
    """
    sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"--import {name}: {e}") from e
