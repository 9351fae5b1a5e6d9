import json
import os
from pathlib import Path

__all__ = ["read_metrics"]


def read_metrics(folder: str | os.PathLike) -> list[dict[str, float]]:
    """
    Read what a training run has written so far. It may be running.

    Args:
        folder (str): the run's OUTPUT_DIR.

    Returns:
        list[dict[str, float]]: the lines of metrics.json. No line if it is not there.
    """
    file = Path(folder) / "metrics.json"
    if not file.exists():
        return []
    # The last line may be half written.
    return [json.loads(x) for x in file.read_text().splitlines(keepends=True) if x[-1] == "\n"]
