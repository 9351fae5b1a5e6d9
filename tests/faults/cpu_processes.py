"""
Trainings in several processes without GPUs, which detectron2's launch() insists on.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import defaults
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

__all__ = ["launch_on_cpu", "processes_of"]


def launch_on_cpu(
    function: Callable[..., object], num_processes: int, args: tuple = (), **_: object
) -> None:
    """
    :func:`detectron2.engine.launch`, started and ended by PyTorch in the same way.
    """
    if num_processes < 2:
        function(*args)
        return
    # This process keeps the store in which they meet.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    arguments = (function, num_processes, store.port, args)
    mp.start_processes(_work, arguments, num_processes, start_method="fork")


def _work(rank: int, function: Callable, num_processes: int, port: int, args: tuple) -> None:
    store = dist.TCPStore("localhost", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=num_processes)
    comm._LOCAL_PROCESS_GROUP = dist.new_group(list(range(num_processes)))
    # detectron2 names a GPU.
    defaults.DistributedDataParallel = _parallel_on_cpu
    function(*args)


def _parallel_on_cpu(
    model: torch.nn.Module, device_ids: object, **kwargs: bool
) -> DistributedDataParallel:
    return DistributedDataParallel(model, **kwargs)


def processes_of(pid: int) -> list[int]:
    """
    Returns:
        list[int]: a process, and those that it has started.
    """
    try:
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:  # it has ended
        return [pid]
