from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["InputError", "config_errors"]


class InputError(ValueError):
    """
    The user's input cannot be used. The message names the input and the remedy.
    """


@contextmanager
def config_errors() -> Iterator[None]:
    """
    What modules raise while they are built from a config, as an :class:`InputError`.
    """
    try:
        yield
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError) as e:
        reason = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
        raise InputError(f"The model cannot be built from the config: {reason}") from e
