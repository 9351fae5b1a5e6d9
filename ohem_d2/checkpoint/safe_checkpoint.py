import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..utils import InputError
from ..utils.safe_pickle import ASKS_FOR, load_pickle

__all__ = ["SafeCheckpointer", "read_safely"]


class SafeCheckpointer(DetectionCheckpointer):
    """
    A :class:`DetectionCheckpointer` that does not run code from a file. It reads what that reads:
    its own checkpoints, and those of detectron2's and Detectron1's model zoo.
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        """
        Same as :meth:`DetectionCheckpointer._load_file`.

        Raises:
            InputError: if the file asks for anything but tensors, NumPy arrays and Python's types,
                or has weights that are not finite.
        """
        read_safely(filename)
        try:
            checkpoint = super()._load_file(filename)  # finds nothing to run
        except Exception as e:  # which exception a broken file raises depends on its bytes
            raise InputError(
                f"The weights {filename} cannot be read: {type(e).__name__}: {e}"
            ) from e
        weights = checkpoint["model"]
        if not isinstance(weights, Mapping):
            raise InputError(
                f"The weights {filename} cannot be read: they are a {type(weights).__name__}, and "
                "not a dict of tensors."
            )
        for name, value in weights.items():
            if not _is_finite(value):
                raise InputError(
                    f"The weights {filename} have values in {name} that are not finite."
                )
        return checkpoint


def read_safely(filename: str) -> Any:
    """
    Returns:
        Any: the content of a file of weights.

    Raises:
        InputError: if it cannot be read without running code.
    """
    try:
        with PathManager.open(filename, "rb") as file:
            if filename.endswith(".pkl"):
                return load_pickle(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        # torch's message is a page long, with advice to run the code.
        unsupported = re.search(r"GLOBAL (\S+) was not", str(e))
        reason = ASKS_FOR.format(unsupported[1]) if unsupported else str(e).splitlines()[0]
        raise InputError(
            f"The weights {filename} cannot be read: {reason}. If you trust the file, load it "
            'with Python, and save {"model": model.state_dict()} with torch.save().'
        ) from e
    except Exception as e:  # which exception a broken file raises depends on its bytes
        raise InputError(f"The weights {filename} cannot be read: {type(e).__name__}: {e}") from e


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    return True
