"""
What the command lines have in common.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..utils import InputError

__all__ = ["add_import_argument", "exit_on_error", "make_parser"]


def make_parser(description: str) -> argparse.ArgumentParser:
    """
    Args:
        description (str): printed as it is, but for "%(prog)s", the name of the command.
    """
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """
    Add --import, for :func:`ohem_d2.engine.import_module`.
    """
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="module",
        help="a Python module that registers your datasets or models, such as my_datasets",
    )


@contextmanager
def exit_on_error(*others: type[Exception]) -> Iterator[None]:
    """
    End the process with the message of an :class:`InputError`, or of another exception, after the
    name of the command, instead of a traceback.
    """
    errors: tuple[type[Exception], ...] = (InputError, *others)
    try:
        yield
    except errors as e:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {e}")
