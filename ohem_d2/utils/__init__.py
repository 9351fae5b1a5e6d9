from .atomic import atomic_file, atomic_folder
from .input_error import InputError
from .json_file import write_json
from .metrics_file import read_metrics

__all__ = ["InputError", "atomic_file", "atomic_folder", "read_metrics", "write_json"]
