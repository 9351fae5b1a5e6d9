"""
The commands of `ohem-d2`, a module each. train_net.py and the scripts in tools/ run the same code.
"""

import warnings

# Of what they depend on, about how that is written: its user can do nothing about it.
for _package in ("detectron2", "fvcore", "pycocotools", "torch", "torchvision"):
    warnings.filterwarnings("ignore", module=rf"{_package}\.")
