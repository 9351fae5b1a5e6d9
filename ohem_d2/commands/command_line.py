"""
What the command lines have in common.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb

from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import DataLoader

from ..utils import InputError

__all__ = [
    "add_import_argument",
    "exit_on_error",
    "is_killed_worker",
    "launch_processes",
    "make_parser",
]


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


def launch_processes(
    function: Callable[[argparse.Namespace], object], args: argparse.Namespace
) -> None:
    """
    Call a function in each process of a training.

    Args:
        function: takes `args`.
        args: with the arguments of detectron2's default_argument_parser().
    """
    try:
        launch(
            function,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as e:  # that process has said why; the others were ended
        sys.exit(e.exit_code)


def is_killed_worker(error: BaseException | None) -> bool:
    """
    Returns:
        bool: whether a process that loads images was killed. PyTorch raises this anywhere, or else
        what its connection to that process raises.
    """
    if isinstance(error, (ConnectionError, EOFError)):
        frames = (x.f_globals.get("__name__") for x, _ in walk_tb(error.__traceback__))
        return DataLoader.__module__ in frames
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def exit_on_error(*others: type[Exception]) -> Iterator[None]:
    """
    End the process with the message of an :class:`InputError`, or of another exception, after the
    name of the command, instead of a traceback. So do files that cannot be read or written, for
    example because the disk is full, and processes that load images and are killed.
    """
    errors: tuple[type[Exception], ...] = (InputError, *others)
    command = os.path.basename(sys.argv[0])
    shows_logging_errors = logging.raiseExceptions
    logging.raiseExceptions = False  # on a full disk, each message would print a traceback
    try:
        yield
    except errors as e:
        sys.exit(f"{command}: {e}")
    except (EOFError, OSError, RuntimeError) as e:
        if is_killed_worker(e):
            sys.exit(
                f"{command}: A process that loads images was killed. If memory ran out: fewer "
                "DATALOADER.NUM_WORKERS need less."
            )
        if not isinstance(e, OSError):
            raise
        reason = e.strerror or e
        sys.exit(f"{command}: {e.filename or 'A file'} cannot be read or written: {reason}.")
    finally:
        logging.raiseExceptions = shows_logging_errors
