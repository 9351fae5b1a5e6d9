"""
Random numbers that depend on where a training is, and not on how it got there.
"""

import random
from collections.abc import Iterator
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
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """
    Like :func:`seed_for`. Afterwards, the random numbers on the CPU go on as if nothing happened.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # of the CPU alone
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
