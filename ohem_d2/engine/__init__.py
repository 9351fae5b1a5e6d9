from .accumulating_trainer import AccumulatingTrainer
from .input_checks import InputError, check_inputs
from .load_config import fall_back_to_cpu, load_config

__all__ = [
    "AccumulatingTrainer",
    "InputError",
    "check_inputs",
    "fall_back_to_cpu",
    "load_config",
]
