from .atomic import atomic_file, atomic_folder

__all__ = ["atomic_file", "atomic_folder"]
