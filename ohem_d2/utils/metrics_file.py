import json
import os
from pathlib import Path

__all__ = ["read_metrics"]


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
