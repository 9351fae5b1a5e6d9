"""
What all tables of docs/results.md have.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from result_files import PROVENANCE

__all__ = ["NOT_YET", "made_by"]

NOT_YET = "*There is no result yet.*"


def made_by(command: str, lines: Iterable[Mapping[str, Any]]) -> str:
    """
    Args:
        lines: what a table is made of, with PROVENANCE.

    Returns:
        str: the line below it: how it was made, and where. Empty if nothing was.
    """
    lines = list(lines)
    if not lines:
        return ""
    values = {x: sorted({str(line[x]) for line in lines}) for x in PROVENANCE}
    return (
        f"<sub>`{command}`; {' and '.join(values['machine'])}; "
        f"commit {', '.join(values['commit'])}; PyTorch {', '.join(values['torch'])}; "
        f"detectron2 {', '.join(values['detectron2'])}; {', '.join(values['date'])}</sub>"
    )
