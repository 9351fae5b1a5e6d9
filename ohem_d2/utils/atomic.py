"""
Output that is complete or absent, even if the process is killed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_file", "atomic_folder", "named_errors"]


@contextmanager
def named_errors(path: str | os.PathLike) -> Iterator[None]:
    """
    Name a file in the system's errors about it. Those of write() name none.
    """
    try:
        yield
    except ConnectionError:  # of processes, not of a file
        raise
    except OSError as e:
        if e.errno is not None and e.filename is None:
            e.filename = str(path)
        raise
    except RuntimeError as e:  # torch.save() raises one while it handles the system's
        error = e.__context__
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise OSError(error.errno, error.strerror, str(path)) from e
        raise


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Write a file under the name `path`.unfinished, and rename it to `path` at the end, where it
    replaces an existing file. After an exception it is removed, and the existing file stays.

    Args:
        path (str): a local file, in a folder that exists.

    Returns:
        the file to write.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with named_errors(path):
        try:
            yield unfinished
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        unfinished.replace(path)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    Fill a new folder under the name `path`.unfinished, and rename it to `path` at the end, where it
    replaces an existing folder and all its content. After an exception it is removed, and the
    existing folder stays.

    Args:
        path (str): a local folder. Its parents are created.

    Returns:
        the empty folder to write into.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    replaced = path.with_name(f"{path.name}.replaced")
    shutil.rmtree(unfinished, ignore_errors=True)  # from a killed run
    unfinished.mkdir(parents=True)
    try:
        with named_errors(path):
            yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    # A folder cannot replace one that is not empty. Deleting that one takes time in which it would
    # be incomplete, so it is renamed first.
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)
