from .accumulating_trainer import AccumulatingTrainer
from .input_checks import InputError, check_inputs

__all__ = ["AccumulatingTrainer", "InputError", "check_inputs"]
