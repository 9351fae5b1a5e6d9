import os

from .clutter import register_clutter
from .voc_test import register_voc_test

# The folder of detectron2's own datasets.
_root = os.getenv("DETECTRON2_DATASETS", "datasets")
register_clutter(_root)
register_voc_test(_root)
