import json
import os
from pathlib import Path
from typing import Optional

from detectron2.utils.events import EventWriter, JSONWriter

from .atomic import atomic_file, named_errors
from .input_error import InputError

__all__ = ["LateJSONWriter", "drop_metrics", "read_metrics"]


def read_metrics(folder: str | os.PathLike) -> list[dict[str, float]]:
    """
    Read the metrics of a training run, which may still be running.

    Args:
        folder (str): the run's OUTPUT_DIR.

    Returns:
        list[dict[str, float]]: the lines of metrics.json. Empty if it is missing.

    Raises:
        InputError: if a line is not of numbers, with the iteration.
    """
    file = Path(folder) / "metrics.json"
    if not file.exists():
        return []
    # The last line may be half written.
    lines = [x for x in file.read_bytes().splitlines(keepends=True) if x.endswith(b"\n")]
    return [_parse(x, f"{file}, line {i}") for i, x in enumerate(lines, start=1)]


def _parse(line: bytes, where: str) -> dict[str, float]:
    try:
        metrics = json.loads(line)
    except ValueError as e:
        raise InputError(f"{where} is not json: {e}") from e
    is_metrics = isinstance(metrics, dict) and "iteration" in metrics
    if not is_metrics or not all(isinstance(x, (int, float)) for x in metrics.values()):
        raise InputError(f'{where} is not a line of numbers with an "iteration".')
    return metrics


def drop_metrics(folder: str | os.PathLike, from_iteration: int) -> None:
    """
    Drop the lines of iterations that a resumed run repeats, and a half written last one.

    Args:
        folder (str): the run's OUTPUT_DIR.
        from_iteration (int): the first that is repeated.
    """
    lines = read_metrics(folder)
    if lines:
        with atomic_file(Path(folder) / "metrics.json") as file:
            kept = [x for x in lines if x["iteration"] < from_iteration]
            file.write_text("".join(json.dumps(x, sort_keys=True) + "\n" for x in kept))


class LateJSONWriter(EventWriter):
    """
    A :class:`JSONWriter` that opens its file when it writes first: a trainer makes its writers
    before it knows which lines a resumed run repeats.
    """

    def __init__(self, json_file: str) -> None:
        self._json_file = json_file
        self._writer: Optional[JSONWriter] = None

    def write(self) -> None:
        with named_errors(self._json_file):
            self._writer = self._writer or JSONWriter(self._json_file)
            self._writer.write()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
