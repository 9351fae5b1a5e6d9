import json
import math
import os
from typing import Any

from .atomic import atomic_file

__all__ = ["write_json"]


def write_json(path: str | os.PathLike, value: Any) -> None:
    """
    Write a json file, complete or not at all.

    Args:
        path (str): a local file, in a folder that exists.
        value (Any): of types that json has. NaN, which json lacks, becomes null.
    """
    text = json.dumps(_replace_nan(value), indent=2) + "\n"
    with atomic_file(path) as file:
        file.write_text(text)


def _replace_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _replace_nan(x) for k, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_nan(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
