from .atomic import atomic_file, atomic_folder
from .did_you_mean import did_you_mean
from .input_error import InputError, config_errors
from .json_file import write_json
from .metrics_file import read_metrics

__all__ = [
    "InputError",
    "atomic_file",
    "atomic_folder",
    "config_errors",
    "did_you_mean",
    "read_metrics",
    "write_json",
]
