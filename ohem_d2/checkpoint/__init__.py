from .atomic_checkpoint import AtomicCheckpointer
from .strict_checkpoint import StrictCheckpointer, WeightsError

__all__ = ["AtomicCheckpointer", "StrictCheckpointer", "WeightsError"]
