import os

from .clutter import register_clutter

# The folder that detectron2's own datasets are in.
register_clutter(os.getenv("DETECTRON2_DATASETS", "datasets"))
