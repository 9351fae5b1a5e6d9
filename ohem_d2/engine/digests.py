"""
Digests of what results depend on, to know whether the results of two runs can be combined.
"""

import hashlib

from detectron2.utils.file_io import PathManager

from ..utils import InputError

__all__ = ["digest", "digest_file"]


def digest(content: bytes) -> str:
    """
    Returns:
        str: 16 hexadecimal digits.
    """
    return hashlib.sha256(content).hexdigest()[:16]


def digest_file(path: str) -> str:
    """
    Returns:
        str: the digest of the content of a file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with PathManager.open(path, "rb") as file:
            return digest(file.read())
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e}") from e
