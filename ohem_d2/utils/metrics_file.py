import json
import os
from pathlib import Path
from typing import Optional

from detectron2.utils.events import EventWriter, JSONWriter

from .atomic import atomic_file

__all__ = ["LateJSONWriter", "drop_metrics", "read_metrics"]


def read_metrics(folder: str | os.PathLike) -> list[dict[str, float]]:
    """
    Read the metrics of a training run, which may still be running.

    Args:
        folder (str): the run's OUTPUT_DIR.

    Returns:
        list[dict[str, float]]: the lines of metrics.json. Empty if it is missing.
    """
    file = Path(folder) / "metrics.json"
    if not file.exists():
        return []
    # The last line may be half written.
    return [json.loads(x) for x in file.read_text().splitlines(keepends=True) if x[-1] == "\n"]


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
        self._writer = self._writer or JSONWriter(self._json_file)
        self._writer.write()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
