"""
What goes wrong in use: bad input, broken files, full disks, kills. `make faults` tries all of it on
the real command lines, and writes docs/reliability.md.
"""

# First: it sets one thread per process, which PyTorch and OpenCV read when they are imported.
import conftest  # noqa: F401

# Imported once, before processes are forked for the commands.
from ohem_d2.commands import (  # noqa: F401
    ablation,
    check_dataset,
    compare_runs,
    compute_proposals,
    convert_proposals,
    convert_weights,
    evaluate_detections,
    inspect_hard_examples,
    train,
)

from . import (
    config_faults,
    dataset_faults,
    folder_faults,
    left_faults,
    malicious_faults,
    proposal_faults,
    weights_faults,
)

__all__ = ["FAULTS"]

FAULTS = [
    *config_faults.FAULTS,
    *dataset_faults.FAULTS,
    *proposal_faults.FAULTS,
    *weights_faults.FAULTS,
    *left_faults.FAULTS,
    *malicious_faults.FAULTS,
    *folder_faults.FAULTS,
]
