"""
Online hard example mining for detectron2. Importing it registers the ROI heads and datasets.
"""

from . import data  # noqa: F401  (registers the datasets)
from .config import add_ohem_config
from .modeling import OHEMROIHeads

__all__ = ["OHEMROIHeads", "add_ohem_config"]
__version__ = "0.1.0"
