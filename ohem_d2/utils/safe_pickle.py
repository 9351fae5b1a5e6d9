"""
Read pickles without executing what they ask for.
"""

import codecs
import collections
import io
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.structures import BoxMode

__all__ = ["ASKS_FOR", "load_pickle"]

ASKS_FOR = (
    "it asks for {}, and what a file asks for can run code. Only tensors, NumPy arrays and "
    "Python's own types are read"
)


def _encode(text: str, encoding: str) -> bytes:
    # How Python 3 pickles bytes for Python 2.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return codecs.encode(text, encoding)


def _load_storage(content: bytes) -> Any:
    # torch pickles the storage of a tensor as another file of torch.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


# NumPy's pickles name its private functions, in modules whose name depends on the version.
_NUMPY = {
    ("multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("multiarray", "scalar"): np.float32(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
}

ALLOWED: dict[tuple[str, str], Callable] = {
    # Older pickles have no signs of their own for these.
    **{
        (module, x.__name__): x
        for module in ("builtins", "__builtin__")
        for x in (bytes, bytearray, complex, frozenset, set)
    },
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.{module}", name): x
        for core in ("core", "_core")
        for (module, name), x in _NUMPY.items()
    },
    ("detectron2.structures.boxes", "BoxMode"): BoxMode,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _load_storage,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(ASKS_FOR.format(f"{module}.{name}"))
        return ALLOWED[module, name]


def load_pickle(file: BinaryIO) -> Any:
    """
    Args:
        file: of Python 3, or of Python 2 (then text and bytes are read as latin1).

    Returns:
        Any: containers of numbers, text, NumPy arrays, tensors and :class:`BoxMode`.

    Raises:
        pickle.UnpicklingError: if it asks for anything else, which is not executed.
    """
    return _Unpickler(file, encoding="latin1").load()
