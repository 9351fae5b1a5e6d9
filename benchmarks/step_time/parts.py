"""
A training step, and how long each part of it takes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor

from benchmarks.measure import synchronize
from benchmarks.step_time import loss_layer
from ohem_d2.modeling.roi_heads import ohem, read_only_pass

__all__ = ["PARTS", "PRECISIONS", "set_tf32", "time_parts", "train_step"]

# TF32: float32 whose matrix products and convolutions a GPU computes with 10 bits of mantissa. The
# last two are automatic mixed precision. For float16, training scales the loss; a measurement need
# not, because that changes the values of the gradients and not the time they take.
PRECISIONS = ("float32", "TF32", "bfloat16", "float16")

BACKBONE, LABELS, READ_ONLY, LOSS_AND_SELECTION, TRAINED, HEADS_BACKWARD, BACKWARD, REST = PARTS = (
    "backbone and RPN",
    "labels",
    "read-only pass",
    "loss and selection",
    "trained pass",
    "backward of RoI heads",
    "backward of backbone and RPN",
    "rest",  # normalizing images, moving targets and proposals, resetting gradients
)


def train_step(network: GeneralizedRCNN, inputs: list[dict], precision: str, device: str) -> None:
    """
    Forward and backward, starting without gradients. The optimizer, the same for all, is left out.
    """
    network.zero_grad(set_to_none=True)
    with set_tf32(precision == "TF32"):
        with _autocast(precision, device):
            losses = network(inputs)
        sum(losses.values()).backward()


def time_parts(
    network: GeneralizedRCNN, inputs: list[dict], precision: str, device: str
) -> dict[str, float]:
    """
    :func:`train_step` with a stopwatch. The backward pass is cut in two at the input features of
    the RoI heads, which changes no gradient. On a GPU each part waits for the one before, so this
    takes longer than the step does.

    Returns:
        dict[str, float]: milliseconds of each of PARTS. They sum up to the time of the step.
    """
    watch = _Stopwatch()
    heads = network.roi_heads
    cut: dict[str, Any] = {}

    def forward_heads(images, features, proposals, targets):
        cut["features"] = list(features.values())
        cut["leaves"] = [x.detach().requires_grad_() for x in features.values()]
        leaves = dict(zip(features, cut["leaves"], strict=True))
        instances, cut["losses"] = original_forward(images, leaves, proposals, targets)
        return instances, {}

    original_forward = watch.timed(TRAINED, heads.forward)
    with set_tf32(precision == "TF32"), ExitStack() as patches:

        def time_calls(owner: Any, name: str, part: str) -> None:
            timed = watch.timed(part, getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, timed))

        patches.enter_context(mock.patch.object(heads, "forward", forward_heads))
        time_calls(network.backbone, "forward", BACKBONE)
        if network.proposal_generator is not None:  # Fast R-CNN has none
            time_calls(network.proposal_generator, "forward", BACKBONE)
        time_calls(heads, "label_and_sample_proposals", LABELS)
        time_calls(ohem, "label_rois", LABELS)
        time_calls(ohem, "compute_roi_losses", READ_ONLY)
        time_calls(read_only_pass, "roi_losses", LOSS_AND_SELECTION)
        time_calls(loss_layer, "roi_losses", LOSS_AND_SELECTION)
        if isinstance(heads, ohem.OHEMMixin):
            for name in ("sample_pool", "sample_foreground", "select_hard_rois"):
                time_calls(heads, name, LOSS_AND_SELECTION)

        watch.start(REST)
        network.zero_grad(set_to_none=True)
        with _autocast(precision, device):
            rpn_losses = network(inputs)
        with watch.part(HEADS_BACKWARD):
            sum(cut["losses"].values()).backward()
        with watch.part(BACKWARD):
            _backward(rpn_losses, cut["features"], cut["leaves"])
        return watch.stop()


def _autocast(precision: str, device: str) -> torch.autocast:
    is_mixed = precision in ("bfloat16", "float16")
    return torch.autocast(device, getattr(torch, precision) if is_mixed else None, enabled=is_mixed)


@contextmanager
def set_tf32(enabled: bool) -> Iterator[None]:
    """
    Whether float32 is TF32, of which PyTorch's default is no for matrix products and yes for
    convolutions.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [x.allow_tf32 for x in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = enabled
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def _backward(losses: dict[str, Tensor], features: list[Tensor], leaves: list[Tensor]) -> None:
    """
    From the losses, and from features whose gradients are those of `leaves`.
    """
    # The heads do not use all features: only the RPN uses FPN's p6.
    used = [
        (x, leaf.grad) for x, leaf in zip(features, leaves, strict=True) if leaf.grad is not None
    ]
    roots = [*losses.values(), *(x for x, _ in used)]
    torch.autograd.backward(roots, [None] * len(losses) + [grad for _, grad in used])


class _Stopwatch:
    """
    Runs for one part at a time. A part within another pauses the outer one: no time counts twice,
    and the parts sum up to the time from start to stop.
    """

    def start(self, part: str) -> None:
        synchronize()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.current, self.since = part, time.perf_counter()

    def stop(self) -> dict[str, float]:
        self._switch_to(self.current)
        return {part: 1000 * x for part, x in self.seconds.items()}

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        outer = self.current
        self._switch_to(part)
        try:
            yield
        finally:
            self._switch_to(outer)

    def timed(self, part: str, call: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return call(*args, **kwargs)

        return run

    def _switch_to(self, part: str) -> None:
        synchronize()
        now = time.perf_counter()
        self.seconds[self.current] += now - self.since
        self.current, self.since = part, now
