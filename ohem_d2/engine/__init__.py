from ..utils import InputError
from .accumulating_trainer import AccumulatingTrainer
from .digests import digest, digest_file
from .import_module import import_module
from .input_checks import check_inputs
from .load_config import fall_back_to_cpu, find_config, load_config

__all__ = [
    "AccumulatingTrainer",
    "InputError",
    "check_inputs",
    "digest",
    "digest_file",
    "fall_back_to_cpu",
    "find_config",
    "import_module",
    "load_config",
]
