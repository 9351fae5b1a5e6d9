"""
The results of a long run in a file, from which a stopped run continues.
"""

import os
import pickle
from typing import Any

from .input_error import InputError

__all__ = ["PartialResults"]


class PartialResults:
    """
    A file to which results are appended one at a time. It holds a description of the run, a newline
    and a pickle of each result. It is unpickled, so open files that you trust only.

    Attributes:
        results (list): all results in the file, in order.
    """

    def __init__(self, path: str | os.PathLike, description: str) -> None:
        """
        Read the results of an earlier run, or start a new file. A result that was half written when
        the run was killed is cut off.

        Args:
            path (str): a local file, in a folder that exists.
            description (str): results of runs with equal descriptions can be combined.

        Raises:
            InputError: if the file is from another run. It is not changed.
        """
        self.results: list[Any] = []
        header = (description + "\n").encode()
        with open(path, "a+b") as file:
            file.seek(0)
            begin = file.read(len(header))
            if not header.startswith(begin):
                file.seek(0)
                first_line = file.readline(500).decode(errors="replace").rstrip()
                raise InputError(
                    f"{path} is from another command:\n"
                    f"it has   {first_line}\n"
                    f"and not  {description}\n"
                    "Continue with the command that started it, or delete it to start anew."
                )
            if begin == header:
                end = file.tell()
                try:
                    while True:
                        self.results.append(pickle.load(file))
                        end = file.tell()
                except (EOFError, pickle.UnpicklingError):
                    file.truncate(end)
            else:  # it is new, or the run was killed while it wrote the header
                file.truncate(0)
                file.write(header)
        # Kept open: if the file is deleted and another run starts a new one in its place, nothing
        # is appended to that.
        self._file = open(path, "ab")  # noqa: SIM115

    def append(self, result: Any) -> None:
        """
        Args:
            result (Any): can be pickled. It is in the file when this returns.

        Raises:
            OSError: if it cannot be written, for example because the disk is full. Append nothing
                after that: the next run continues from the complete results.
        """
        # In one piece, so that nothing is written if pickling fails.
        self._file.write(pickle.dumps(result))
        self._file.flush()
        self.results.append(result)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PartialResults":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
