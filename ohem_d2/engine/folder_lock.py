import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..utils import InputError

__all__ = ["folder_lock"]


@contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """
    Keep other trainings out of a folder, as long as this one lives: the system releases the lock of
    a process that is killed.

    Args:
        folder (str): a local one. It is created.

    Raises:
        InputError: if another training has it, or it cannot be written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, ".lock"), "a")  # noqa: SIM115
    except OSError as e:
        raise InputError(f"OUTPUT_DIR is {folder}, which cannot be written to: {e}") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(
                f"Another training writes to {folder}. Wait for its end, or set another OUTPUT_DIR."
            ) from e
        except OSError:
            pass  # a file system without locks
        yield
