from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

__all__ = ["StrictCheckpointer", "WeightsError"]


class WeightsError(ValueError):
    """
    Weights cannot be used with the model. The message names them and the remedy.
    """


class StrictCheckpointer(DetectionCheckpointer):
    """
    A :class:`DetectionCheckpointer` for evaluation: weights that the model has and the file has
    not, or in another shape, would keep their random values, and are an error.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        Same as :meth:`DetectionCheckpointer.load`.

        Raises:
            WeightsError: if the file cannot be read, or does not have all weights of the model.
        """
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        except WeightsError:
            raise
        except Exception as e:  # what reading something else raises depends on its bytes
            raise WeightsError(f"The weights {path} cannot be read: {type(e).__name__}: {e}") from e

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        problems = {
            name: f"{name} is not in the file"
            for name in incompatible.missing_keys
            # Batch norm counts its batches, and older files lack the count.
            if not name.endswith("num_batches_tracked")
        }
        for name, theirs, ours in incompatible.incorrect_shapes:
            problems[name] = (
                f"{name} is of shape {tuple(theirs)} in the file, and {tuple(ours)} in the model"
            )
        if problems:
            first, *others = problems.values()
            more = f", and {len(others)} more like it" if others else ""
            raise WeightsError(
                f"The weights {self._path} are not of the model that the config describes: {first}"
                f"{more}. The config has to be the one that they were trained with."
            )
        return incompatible
