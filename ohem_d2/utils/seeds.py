"""
Random numbers that depend on where a training is, and not on how it got there.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seed_for", "seeded"]


def seed_for(*numbers: int) -> None:
    """
    Seed the random numbers of Python, NumPy and PyTorch (also on GPUs).

    Args:
        numbers: at least 0. Other ones give unrelated random numbers.
    """
    torch.manual_seed(_seed_python_and_numpy(numbers))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """
    Like :func:`seed_for`. Afterwards, the random numbers on the CPU go on as if nothing happened.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.default_generator.manual_seed(_seed_python_and_numpy(numbers))  # of the CPU alone
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _seed_python_and_numpy(numbers: Sequence[int]) -> int:
    """
    Returns:
        int: the seed, for PyTorch.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    return seed
