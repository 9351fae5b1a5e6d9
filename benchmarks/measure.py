"""
How the benchmarks measure time and memory, and print what they measured.
"""

import os
import time
from collections.abc import Callable
from itertools import accumulate
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

__all__ = ["measure", "synchronize", "peak_memory", "make_table"]


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """
    Returns:
        dict[str, float]: the median of the milliseconds that each takes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * median(x) for name, x in seconds.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(call: Callable[[], Any], device: str) -> float:
    """
    Returns:
        float: how many MiB of tensors are allocated at most at a time during a call.
    """
    if device == "cpu":
        os.environ["KINETO_LOG_LEVEL"] = "99"  # or each profile logs that it begins and ends
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
        events = profiler.profiler.kineto_results.events()
        peak = max(accumulate(x.nbytes() for x in events if x.name() == "[memory]"))
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peak = torch.cuda.max_memory_allocated() - before
    return peak / 2**20


def make_table(headers: list[str], rows: list[list[Any]], num_left: int = 1) -> str:
    """
    Args:
        num_left (int): so many columns are words, and the others numbers.
    """
    alignment = ["left"] * num_left + ["right"] * (len(headers) - num_left)
    return tabulate(rows, headers, tablefmt="github", colalign=alignment, disable_numparse=True)
