"""
How the benchmarks measure time and memory, and write tables.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

__all__ = [
    "listed",
    "make_table",
    "mean_and_deviation",
    "measure",
    "number",
    "peak_memory",
    "synchronize",
]


def listed(words: Sequence[str]) -> str:
    """
    Returns:
        str: "cats, cows and dogs".
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """
    Returns:
        dict[str, float]: the median time of each call in milliseconds. The calls take turns.
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
        float: the peak of the tensors allocated during a call, in MiB.
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


def make_table(rows: Sequence[Mapping[str, Any]], num_left: int = 1) -> str:
    """
    Args:
        rows: cells by the name of the column.
        num_left (int): number of columns that are words; the others are numbers.

    Returns:
        str: the table in Markdown.
    """
    table = pd.DataFrame(rows)
    align = ["left"] * num_left + ["right"] * (table.shape[1] - num_left)
    return table.to_markdown(index=False, tablefmt="github", disable_numparse=True, colalign=align)


def number(x: float, digits: int = 1) -> str:
    return "-" if math.isnan(x) else f"{x:.{digits}f}"


def mean_and_deviation(values: pd.Series) -> str:
    deviation = f" ± {values.std():.1f}" if len(values) > 1 else ""
    return number(values.mean()) + deviation
