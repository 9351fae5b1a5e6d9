"""
Online hard example mining for detectron2. Importing it registers the ROI heads and datasets.
"""

import warnings

with warnings.catch_warnings():
    # What detectron2 uses while it is imported.
    warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)
    from . import data  # noqa: F401  (registers the datasets)
    from .config import add_ohem_config
    from .modeling import (
        GeneralizedRCNNWithTTA,
        HeuristicROIHeads,
        OHEMCascadeROIHeads,
        OHEMMixin,
        OHEMRes5ROIHeads,
        OHEMROIHeads,
        build_test_time_model,
        use_ohem,
    )

__all__ = [
    "GeneralizedRCNNWithTTA",
    "HeuristicROIHeads",
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRes5ROIHeads",
    "add_ohem_config",
    "build_test_time_model",
    "use_ohem",
]
__version__ = "0.1.0"
