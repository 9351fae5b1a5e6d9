from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.resumable_loader import ResumableLoader
from ..utils.seeds import seed_for

__all__ = ["ResumableSteps"]


class ResumableSteps(HookBase):
    """
    Seeds each step, so that a resumed training has the random numbers of one that was not stopped.
    The seed is saved with the trainer, for the loader as well.
    """

    def __init__(self, loader: ResumableLoader) -> None:
        self._loader = loader

    def before_step(self) -> None:
        # The last number sets it apart from the seeds of the loader.
        seed_for(self._loader.seed, comm.get_rank(), self.trainer.iter, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._loader.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.seed = state["seed"]
