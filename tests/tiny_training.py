"""
train_net.py in the process of the tests, with a training that takes seconds.
"""

from conftest import ROOT

from ohem_d2.commands.train import argument_parser, train

CONFIG = str(ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml")
TINY = [
    *("MODEL.DEVICE", "cpu"),
    *("SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.MAX_ITER", "12"),
    *("SOLVER.STEPS", "(10,)"),
    *("SOLVER.WARMUP_ITERS", "0", "MODEL.OHEM.WARMUP_ITERS", "0"),
    *("SOLVER.CHECKPOINT_PERIOD", "3"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
]


def parse(*arguments, options=()):
    return argument_parser().parse_args([*arguments, *TINY, *map(str, options)])


def run_train_net(*arguments, options=()):
    """
    Args:
        arguments: of the command line, without --config-file
        options: keys and values of the config, which override TINY

    Returns:
        dict: the results, by dataset
    """
    return train(parse("--config-file", CONFIG, *arguments, options=options))
