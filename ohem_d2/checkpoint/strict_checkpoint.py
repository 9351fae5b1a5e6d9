from typing import Any

from ..utils import InputError
from .safe_checkpoint import SafeCheckpointer

__all__ = ["StrictCheckpointer", "check_compatible"]


class StrictCheckpointer(SafeCheckpointer):
    """
    A :class:`SafeCheckpointer` for evaluation: weights of the model that the file lacks, or has in
    another shape, are an error. :class:`DetectionCheckpointer` leaves them random.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        Same as :meth:`DetectionCheckpointer.load`.

        Raises:
            InputError: if the file cannot be read, or lacks weights of the model.
        """
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        except InputError:
            raise
        except Exception as e:  # which exception a broken file raises depends on its bytes
            raise InputError(f"The weights {path} cannot be read: {type(e).__name__}: {e}") from e

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        check_compatible(incompatible, self._path)
        return incompatible


def check_compatible(incompatible: Any, path: str) -> None:
    """
    Args:
        incompatible: what a checkpointer has found.
        path (str): the file.

    Raises:
        InputError: if the file lacks weights of the model, or has them in another shape.
    """
    problems = {
        name: f"{name} is not in the file"
        for name in incompatible.missing_keys
        # Batch norm counts its batches. Older files lack the count.
        if not name.endswith("num_batches_tracked")
    }
    for name, theirs, ours in incompatible.incorrect_shapes:
        problems[name] = (
            f"{name} has shape {tuple(theirs)} in the file and {tuple(ours)} in the model"
        )
    if problems:
        first, *others = problems.values()
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(
            f"The weights {path} do not fit the model in the config: {first}{more}. "
            "Use the config that they were trained with."
        )
