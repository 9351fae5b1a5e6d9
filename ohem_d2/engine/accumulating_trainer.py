import itertools
import time
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch.nn.parallel import DistributedDataParallel

__all__ = ["AccumulatingTrainer"]


class AccumulatingTrainer(SimpleTrainer):
    """
    A :class:`SimpleTrainer` (or AMPTrainer) that splits the images of a step into several forward
    and backward passes, which saves memory. The gradients of a step are the mean over its images.
    They equal those of a single pass if all images have equally many RoIs to train on.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        passes: int,
        amp: bool = False,
    ):
        """
        Args:
            model, data_loader, optimizer: same as in :class:`SimpleTrainer`.
            passes (int): number of passes for the images of a process. With fewer images, each
                image has its own pass.
            amp (bool): whether to use mixed precision.
        """
        super().__init__(model, data_loader, optimizer)
        self.passes = passes
        self.amp = amp
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=amp)

    def run_step(self) -> None:
        """
        See :meth:`SimpleTrainer.run_step`.
        """
        assert self.model.training, "[AccumulatingTrainer] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        step_losses: dict[str, torch.Tensor] = {}
        parts = _split(data, self.passes)
        for i, part in enumerate(parts):
            is_last = i == len(parts) - 1
            # Processes exchange gradients once, after the last pass.
            is_parallel = isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if is_parallel and not is_last else nullcontext():
                with torch.autocast(self.device_type, enabled=self.amp):
                    losses = self.model(part)
                    # detectron2's losses are means over images.
                    losses = {k: v * (len(part) / len(data)) for k, v in losses.items()}
                self.grad_scaler.scale(sum(losses.values())).backward()
            for name, loss in losses.items():
                step_losses[name] = step_losses.get(name, 0) + loss.detach()
        self._write_metrics(step_losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        ret = super().state_dict()
        ret["grad_scaler"] = self.grad_scaler.state_dict()
        return ret

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # Checkpoints from a training without mixed precision have none.
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _split(data: list[dict], passes: int) -> list[list[dict]]:
    """
    Returns:
        list[list[dict]]: consecutive, non-empty parts whose lengths differ by at most one.
    """
    passes = min(passes, len(data))
    bounds = [i * len(data) // passes for i in range(passes + 1)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]
