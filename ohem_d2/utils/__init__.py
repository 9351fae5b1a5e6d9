from .atomic import atomic_file, atomic_folder
from .json_file import write_json

__all__ = ["atomic_file", "atomic_folder", "write_json"]
