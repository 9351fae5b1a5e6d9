from .input_checks import InputError, check_inputs

__all__ = ["InputError", "check_inputs"]
