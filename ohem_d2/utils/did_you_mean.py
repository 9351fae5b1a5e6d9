import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """
    Returns:
        str: " Did you mean cat or bat?", to be added to a message about an unknown name. Empty if
        no known name is close.
    """
    close = difflib.get_close_matches(name, list(known))
    return f" Did you mean {' or '.join(close)}?" if close else ""
