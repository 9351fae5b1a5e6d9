"""
Count how often the ROI heads of a training step make the CPU wait for the GPU, by place in the
code: each time, the GPU idles until the CPU has given it work again. On a CPU, it counts the calls
that would wait.

    python -m benchmarks.gpu.syncs
"""

import argparse
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import make_table, synchronize
from benchmarks.step_time.models import MODELS, OHEM, STOCK, build_variants, make_inputs
from benchmarks.step_time.run import extract_features, shrink
from ohem_d2 import OHEMCascadeROIHeads, OHEMMixin
from ohem_d2.utils import atomic_file

__all__ = ["count_syncs", "mine"]

MESSAGE = "called a synchronizing CUDA operation"  # of set_sync_debug_mode
NO_FRAME = "an operator's C++ code"

aten = torch.ops.aten
# Read a tensor's values, or allocate by them.
WAITS = (
    aten._local_scalar_dense,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    torch.ops.torchvision.nms,
)
INDEXES = (aten.index, aten.index_put, aten.index_put_)


def count_syncs(call: Callable[[], Any], device: str) -> Counter[str]:
    """
    Args:
        call: run once before, to warm up.

    Returns:
        Counter[str]: how often a call waits for the GPU, by place: a line of the innermost function
        outside of PyTorch, and the function that called it.
    """
    call()
    places: Counter[str] = Counter()
    if device == "cpu":
        with _CountOnCPU(places):
            call()
        return places

    def show(message: Any, *_: Any, **__: Any) -> None:
        if MESSAGE in str(message):
            places[_place()] += 1

    synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(), _captured_stderr() as lines:
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    # An operator that PyTorch calls without a handler of warnings prints them.
    printed = sum(MESSAGE in x for x in lines)
    return places + Counter({NO_FRAME: printed})


class _CountOnCPU(TorchDispatchMode):
    """
    Counts the calls that would wait if the tensors were on a GPU. A tensor that is copied to the
    CPU cannot be told from one that is there already, so ``tolist()`` is not counted.
    """

    def __init__(self, places: Counter[str]):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        waits = packet in WAITS
        if packet in INDEXES:
            # A mask is turned into indices, unless it is filled with one number. At indices, the
            # number is copied to the GPU first.
            is_fill = packet is not aten.index and args[2].dim() == 0
            has_mask = any(x is not None and x.dtype == torch.bool for x in args[1])
            waits = has_mask != is_fill
        if waits:
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    packages = tuple(str(Path(x.__file__).parent) for x in (torch, torchvision))
    skipped = (__file__, warnings.__file__, *packages)
    frames = [x for x in traceback.extract_stack() if not x.filename.startswith(skipped)]
    caller, inner = frames[-2:]
    return f"{Path(inner.filename).name}:{inner.lineno} {inner.name} ({caller.name})"


@contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """
    What is written to the file descriptor, from C++ as well.
    """
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
            print(*(x for x in lines if MESSAGE not in x), sep="\n", end="", file=sys.stderr)


def mine(heads: OHEMMixin, features: dict[str, Tensor], proposals: Any, targets: Any) -> None:
    """
    The part of a step that mining adds: all but the training on what is mined.

    Args:
        heads, features, proposals, targets: of a call of the heads in training.
    """
    with EventStorage():
        rois = heads.label_proposals(proposals, targets)
        if isinstance(heads, OHEMCascadeROIHeads):
            heads.mine_stages(None, features, rois, targets)
        else:
            heads.mine_hard_rois(features, rois)


def table(device: str, tiny: bool) -> str:
    """
    Returns:
        str: the counts of R50-FPN on two images.
    """
    model = MODELS["R50-FPN"]
    model = model._replace(variants=[x for x in model.variants if x.name in (STOCK, OHEM)])
    if tiny:
        model = shrink(model)
    inputs = make_inputs(model, 2)
    networks = build_variants(model, inputs, device)
    features = extract_features(networks[OHEM], inputs)
    proposals, targets = ([x[k].to(device) for x in inputs] for k in ("proposals", "instances"))

    def forward(variant: str) -> None:
        with EventStorage():
            networks[variant].roi_heads(None, features, proposals, targets)

    counts = {
        "stock heads": count_syncs(lambda: forward(STOCK), device),
        "OHEM's heads": count_syncs(lambda: forward(OHEM), device),
        "mining alone": count_syncs(
            lambda: mine(networks[OHEM].roi_heads, features, proposals, targets), device
        ),
    }
    places = sorted(set().union(*counts.values()))
    rows = [{"place": x, **{k: str(v[x]) for k, v in counts.items()}} for x in places]
    rows.append({"place": "sum", **{k: str(v.total()) for k, v in counts.items()}})
    return make_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a small image and few proposals")
    parser.add_argument("--output", type=Path, help="a file for the table (default: none)")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    text = f"Forward passes of R50-FPN's ROI heads, two images, {device}:\n\n"
    text += f"{table(device, args.tiny)}\n"
    print(text, end="")
    if args.output:
        with atomic_file(args.output) as path:
            path.write_text(text)


if __name__ == "__main__":
    main()
