from detectron2.config import CfgNode as CN

__all__ = ["add_ohem_config"]


def add_ohem_config(cfg: CN) -> None:
    """
    Add the config of online hard example mining, with its default values.
    """
    _C = cfg

    # Used if MODEL.ROI_HEADS.NAME is that of OHEM's heads. How many RoIs an image are kept is
    # MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE.
    _C.MODEL.OHEM = CN()

    # A RoI is removed if its IoU with one of a larger loss is larger than this. 1.0 turns the NMS
    # off.
    _C.MODEL.OHEM.NMS_THRESH = 0.7

    # If False, all RoIs of an image compete in this NMS, as the paper's text reads. If True, only
    # those of the same label do (background is one label), as in the authors' code.
    _C.MODEL.OHEM.NMS_PER_CLASS = False

    # "sampled": foreground is a random sample, as large as detectron2's (at most
    # MODEL.ROI_HEADS.POSITIVE_FRACTION), and the hardest background fills the batch. "mined": it is
    # ranked like background, as in the paper. Which is better depends on the data: see
    # docs/results.md.
    _C.MODEL.OHEM.FOREGROUND = "sampled"

    # Of mined foreground. None: the hardest RoIs are kept whatever they are, as in the paper.
    # Otherwise foreground and background are mined apart, and at most this fraction of the kept
    # RoIs is foreground. 0.25 is the 1:3 variant of other frameworks.
    _C.MODEL.OHEM.POSITIVE_FRACTION = None

    # For so many iterations RoIs are sampled at random, as in detectron2. The hardest RoIs of a
    # model that knows nothing are those that cannot be learned.
    _C.MODEL.OHEM.WARMUP_ITERS = 0

    # Weights of the classification and the box regression loss in the ranking (not in training:
    # that is MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT, which the ranking includes).
    _C.MODEL.OHEM.CLS_LOSS_WEIGHT = 1.0
    _C.MODEL.OHEM.BOX_LOSS_WEIGHT = 1.0

    # Number of RoIs, of all images of a process together, in one read-only forward. It bounds the
    # memory, which of C4 models is twice the baseline's with all RoIs at once, and does not change
    # the result. As many as detectron2 trains on need no more memory than it. 0: all at once.
    _C.MODEL.OHEM.MINING_BATCH_SIZE = 512

    # Run the read-only forward in half precision, whatever that of training: faster, and some
    # other RoIs are kept.
    _C.MODEL.OHEM.MINING_HALF_PRECISION = False

    # What mask and keypoint heads are trained on: "mined", the foreground among the mined RoIs, or
    # "sampled", a random sample of all foreground RoIs, as many as detectron2 samples: at most
    # BATCH_SIZE_PER_IMAGE * POSITIVE_FRACTION of MODEL.ROI_HEADS.
    _C.MODEL.OHEM.MASK_KEYPOINT_ROIS = "mined"

    # The following are used by OHEM's heads and by HeuristicROIHeads, its baseline.

    # A RoI is neither foreground nor background if a larger part of its area than this lies in an
    # ignore region: a crowd (COCO), or a difficult object (PASCAL VOC, see DATASETS.DIFFICULT).
    _C.MODEL.ROI_HEADS.IGNORE_IOA_THRESH = 0.7

    # The paper's bg_lo, of HeuristicROIHeads: background are the RoIs whose largest IoU with an
    # object is at least this (and below MODEL.ROI_HEADS.IOU_THRESHOLDS). Fast R-CNN has 0.1.
    _C.MODEL.ROI_HEADS.BG_LO = 0.0

    # Used if MODEL.BACKBONE.NAME is build_torchvision_backbone. MODEL.BACKBONE.FREEZE_AT counts
    # its stages: 2 freezes conv1 and conv2 of VGG.
    _C.MODEL.TORCHVISION = CN()

    # Name of an image classifier in torchvision that has `features`: VGG, SqueezeNet, DenseNet, ...
    _C.MODEL.TORCHVISION.NAME = "vgg16"

    # Names of the stages to return, "stage1" for the first. []: the last, "stage5" of VGG.
    _C.MODEL.TORCHVISION.OUT_FEATURES = []

    # Used if MODEL.ROI_BOX_HEAD.NAME is VGGBoxHead: output dimensions of fc6 and fc7. The second
    # of VGG_CNN_M_1024 is 1024.
    _C.MODEL.ROI_BOX_HEAD.FC_DIMS = [4096, 4096]

    # Used by VGGBoxHead: the probability that dropout zeroes an output of fc6 and fc7 in training.
    _C.MODEL.ROI_BOX_HEAD.DROPOUT = 0.5

    # The following are used by train_net.py.

    # What training makes of the objects that PASCAL VOC marks as difficult: "train" on them, as
    # detectron2; "drop" them, so that RoIs on them are background, as the paper's code; or make
    # them "ignore" regions.
    _C.DATASETS.DIFFICULT = "ignore"

    # Cut the images of a process into this many forward and backward passes, and accumulate their
    # gradients, for the memory of one. The paper has one image a pass.
    _C.SOLVER.ACCUMULATION_PASSES = 1

    # The following are used by build_test_time_model, and so by train_net.py --eval-only.
    # TEST.AUG, detectron2's own, is multi-scale testing.

    # Iterative bounding-box regression: boxes are scored and relocalized in rounds.
    _C.TEST.ITERATIVE_BBOX = CN({"ENABLED": False})

    # The number of rounds. 1 is detectron2's inference; the paper has 2, R1 and R2.
    _C.TEST.ITERATIVE_BBOX.NUM_ROUNDS = 2

    # A box goes into the next round if its score is higher than this.
    _C.TEST.ITERATIVE_BBOX.SCORE_THRESH = 0.2

    # Box voting: a detection becomes the mean, weighted by score, of the boxes of its class that
    # overlap it.
    _C.TEST.BOX_VOTING = CN({"ENABLED": False})

    # Threshold of the NMS before the voting. None: MODEL.ROI_HEADS.NMS_THRESH_TEST. The paper has
    # 0.3.
    _C.TEST.BOX_VOTING.NMS_THRESH = None

    # The lowest IoU with a detection that a box needs to vote on it.
    _C.TEST.BOX_VOTING.IOU_THRESH = 0.5

    # What becomes of the score of a detection: "ID", it stays, as in the paper; or "AVG",
    # "IOU_AVG", "TEMP_AVG", "GENERALIZED_AVG" or "QUASI_SUM" of its voters, as in Detectron.
    _C.TEST.BOX_VOTING.SCORING_METHOD = "ID"

    # Of the last three: a positive number.
    _C.TEST.BOX_VOTING.SCORING_METHOD_BETA = 1.0
