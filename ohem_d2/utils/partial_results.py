"""
The results of a long run in a file, from which a stopped run continues.
"""

import base64
import io
import json
import os
import zlib
from typing import Any

import numpy as np

from .atomic import named_errors
from .input_error import InputError

__all__ = ["PartialResults"]


class PartialResults:
    """
    A file to which results are appended one at a time. Its first line is a description of the run,
    and each other line a result in JSON. Results consist of lists, dicts, text, numbers, None and
    NumPy arrays.

    Attributes:
        results (list): all results in the file, in order. What was appended as a tuple is a list
            there after the file was read.
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
        with named_errors(path), open(path, "a+b") as file:
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
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    try:
                        self.results.append(json.loads(line, object_hook=_to_array))
                    except (ValueError, EOFError, zlib.error) as e:
                        raise InputError(
                            f"{path} is damaged after {end} bytes: {e}. Delete it to start anew."
                        ) from e
                    end += len(line)
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
            result (Any): see above. It is in the file when this returns.

        Raises:
            TypeError: if it consists of anything else. Nothing is written.
            OSError: if it cannot be written, for example because the disk is full. Append nothing
                after that: the next run continues from the complete results.
        """
        line = json.dumps(result, default=_to_json).encode() + b"\n"
        with named_errors(self._file.name):
            self._file.write(line)
            self._file.flush()
        self.results.append(result)

    def close(self) -> None:
        with named_errors(self._file.name):  # it writes what is left
            self._file.close()

    def __enter__(self) -> "PartialResults":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


ARRAY = "npy"  # key of an array: its file, compressed


def _to_json(value: Any) -> dict[str, str]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} is not among the types of results.")
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {ARRAY: base64.b64encode(zlib.compress(file.getvalue())).decode()}


def _to_array(value: dict[str, Any]) -> Any:
    if value.keys() != {ARRAY}:
        return value
    content = zlib.decompress(base64.b64decode(value[ARRAY]))
    return np.load(io.BytesIO(content), allow_pickle=False)
