import os

from .clutter import register_clutter

# The folder of detectron2's own datasets.
register_clutter(os.getenv("DETECTRON2_DATASETS", "datasets"))
