import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["InputError", "config_errors"]


class InputError(ValueError):
    """
    The user's input cannot be used. The message names the input and the remedy.
    """


@contextmanager
def config_errors(cfg: Mapping[str, Any]) -> Iterator[None]:
    """
    What modules raise while they are built from a config, as an :class:`InputError`. It names the
    keys of the values that it is about.
    """
    try:
        yield
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError) as e:
        reason = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
        about = [key for key, value in _values(cfg) if _is_about(e, value)]
        keys = ", ".join(key for key in about if key not in reason)
        raise InputError(
            f"The config cannot be used: {reason}" + (f" (see {keys})" * bool(keys))
        ) from e


def _is_about(error: Exception, value: Any) -> bool:
    if isinstance(error, KeyError) and error.args == (value,):
        return True
    is_word = isinstance(value, str) and re.fullmatch(r"\w+", value)
    return bool(is_word and re.search(rf"\b{value}\b", str(error)))


def _values(cfg: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """
    Returns:
        each key, such as "MODEL.ROI_HEADS.NAME", with its value, or with each value in its list.
    """
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{key}.")
        else:
            for x in value if isinstance(value, (list, tuple)) else [value]:
                yield prefix + key, x
