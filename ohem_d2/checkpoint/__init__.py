from .atomic_checkpoint import AtomicCheckpointer

__all__ = ["AtomicCheckpointer"]
