import importlib
import os
import sys
import traceback
from typing import Optional

from ..utils import InputError

__all__ = ["import_module"]


def import_module(name: Optional[str]) -> None:
    """
    Import the user's module that registers datasets. It may be in the current folder.

    Args:
        name (str): None if the user names no module.

    Raises:
        InputError: if it, or a module that it imports, is missing, or it raises an exception.
    """
    if not name:
        return
    sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"--import {name}: {e}") from e
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        raise InputError(
            f"--import {name}: {type(e).__name__}: {e} ({where.filename}, line {where.lineno})"
        ) from e
