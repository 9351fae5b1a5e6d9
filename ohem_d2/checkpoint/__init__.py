from .atomic_checkpoint import AtomicCheckpointer
from .load_model import load_model
from .strict_checkpoint import StrictCheckpointer

__all__ = ["AtomicCheckpointer", "StrictCheckpointer", "load_model"]
