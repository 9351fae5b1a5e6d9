"""
Options with which train_net.py trains in seconds.
"""

from conftest import ROOT

CONFIG = str(ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml")
TINY = [
    *("MODEL.DEVICE", "cpu"),
    *("SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.MAX_ITER", "12"),
    *("SOLVER.STEPS", "(10,)"),
    *("SOLVER.WARMUP_ITERS", "0"),
    *("SOLVER.CHECKPOINT_PERIOD", "3"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
]
