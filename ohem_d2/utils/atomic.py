"""
Output that is there as a whole or not at all, whenever the process is killed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_file", "atomic_folder"]


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Write a file under the name `path`.unfinished, which becomes `path` at the end, and takes the
    place of one that is there. After an exception it is removed, and what was there stays.

    Args:
        path (str): a local file, in a folder that exists.

    Returns:
        the file to write.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        yield unfinished
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    Fill a new folder under the name `path`.unfinished, which becomes `path` at the end, and takes
    the place of one that is there, with all that is in it. After an exception it is removed, and
    what was there stays.

    Args:
        path (str): a local folder. Those that it is in are made.

    Returns:
        the empty folder to write into.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    replaced = path.with_name(f"{path.name}.replaced")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    # A folder cannot be renamed to one that is not empty. To remove that one takes time, in which
    # only a part of it would be there: so it is renamed as well.
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)
