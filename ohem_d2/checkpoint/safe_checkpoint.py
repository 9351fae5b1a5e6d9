import pickle
import re
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from ..utils import InputError
from ..utils.safe_pickle import ASKS_FOR, load_pickle

__all__ = ["SafeCheckpointer"]


class SafeCheckpointer(DetectionCheckpointer):
    """
    A :class:`DetectionCheckpointer` that does not run code from a file. It reads what that reads:
    its own checkpoints, and those of detectron2's and Detectron1's model zoo.
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        """
        Same as :meth:`DetectionCheckpointer._load_file`.

        Raises:
            InputError: if the file asks for anything but tensors, NumPy arrays and Python's types.
        """
        try:
            with PathManager.open(filename, "rb") as file:
                if filename.endswith(".pkl"):
                    load_pickle(file)
                else:
                    torch.load(file, map_location="cpu", weights_only=True)
            # Reads it again, and finds nothing to run.
            return super()._load_file(filename)
        except pickle.UnpicklingError as e:
            # torch's message is a page long, with advice to run the code.
            unsupported = re.search(r"GLOBAL (\S+) was not", str(e))
            reason = ASKS_FOR.format(unsupported[1]) if unsupported else str(e).splitlines()[0]
            raise InputError(
                f"The weights {filename} cannot be read: {reason}. If you trust the file, load it "
                'with Python, and save {"model": model.state_dict()} with torch.save().'
            ) from e
        except Exception as e:  # which exception a broken file raises depends on its bytes
            raise InputError(
                f"The weights {filename} cannot be read: {type(e).__name__}: {e}"
            ) from e
