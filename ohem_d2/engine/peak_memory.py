import resource

import torch
from detectron2.engine import HookBase

__all__ = ["PeakMemory"]


class PeakMemory(HookBase):
    """
    Logs the scalar `max_mem`: the most memory that tensors have had on the GPU of the main process,
    or without a GPU the process itself, in MiB.
    """

    def after_step(self) -> None:
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # from KiB
        self.trainer.storage.put_scalar("max_mem", peak, smoothing_hint=False)
