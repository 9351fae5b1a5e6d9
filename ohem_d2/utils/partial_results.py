"""
The results of a long run in a file, from which a run that was stopped in any way goes on.
"""

import os
import pickle
from typing import Any

__all__ = ["PartialResults"]


class PartialResults:
    """
    A file to which results are appended one at a time: a text that describes the run, a newline,
    and then a pickle for each result. It is unpickled: it has to come from someone you trust.

    Attributes:
        results (list): what is in the file, in the order in which it was appended.
    """

    def __init__(self, path: str | os.PathLike, description: str) -> None:
        """
        Read the results that an earlier run has left, or begin a new file. A result that was being
        written when the run was killed is cut off.

        Args:
            path (str): a local file, in a folder that exists.
            description (str): the results of two runs with the same one can be mixed.

        Raises:
            ValueError: if the file is of another run. It is left as it is.
        """
        self.results: list[Any] = []
        header = (description + "\n").encode()
        with open(path, "a+b") as file:
            file.seek(0)
            begin = file.read(len(header))
            if not header.startswith(begin):
                file.seek(0)
                first_line = file.readline(500).decode(errors="replace").rstrip()
                raise ValueError(
                    f"{path} is there, and was not begun by this command:\n"
                    f"it has   {first_line}\n"
                    f"and not  {description}\n"
                    "Go on with the command that began it, or delete it to begin anew."
                )
            if begin == header:
                end = file.tell()
                try:
                    while True:
                        self.results.append(pickle.load(file))
                        end = file.tell()
                except (EOFError, pickle.UnpicklingError):
                    file.truncate(end)
            else:  # it is new, or the run was killed before the whole header was there
                file.truncate(0)
                file.write(header)
        # Open from here on: if the file is deleted and another run begins its own in its place,
        # nothing is appended to that.
        self._file = open(path, "ab")  # noqa: SIM115

    def append(self, result: Any) -> None:
        """
        Args:
            result (Any): whatever can be pickled. It is in the file when this returns.

        Raises:
            OSError: if it could not be written, as when the disk is full. Append nothing
                after that: the next run goes on from what is whole.
        """
        # In one piece, so that nothing is written of what cannot be pickled.
        self._file.write(pickle.dumps(result))
        self._file.flush()
        self.results.append(result)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PartialResults":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
