__all__ = ["InputError"]


class InputError(ValueError):
    """
    The user's input cannot be used. The message names the input and the remedy.
    """
