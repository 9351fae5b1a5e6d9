import importlib
import os
import sys
from typing import Optional

from ..utils import InputError

__all__ = ["import_module"]


def import_module(name: Optional[str]) -> None:
    """
    Import the user's module that registers datasets. It may be in the current folder.

    Args:
        name (str): None if the user names no module.

    Raises:
        InputError: if it, or a module that it imports, is missing.
    """
    if not name:
        return
    sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"--import {name}: {e}") from e
