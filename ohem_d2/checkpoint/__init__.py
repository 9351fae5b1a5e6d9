from .atomic_checkpoint import AtomicCheckpointer
from .load_model import load_model
from .safe_checkpoint import SafeCheckpointer
from .strict_checkpoint import StrictCheckpointer

__all__ = ["AtomicCheckpointer", "SafeCheckpointer", "StrictCheckpointer", "load_model"]
