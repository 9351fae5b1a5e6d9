from detectron2.config import CfgNode as CN

__all__ = ["add_ohem_config"]


def add_ohem_config(cfg: CN) -> None:
    """
    Add the config of online hard example mining, with its default values.
    """
    _C = cfg

    # Online hard example mining, used by OHEMROIHeads, OHEMRes5ROIHeads and OHEMCascadeROIHeads.
    # MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE is the number of RoIs to train on, per image.
    _C.MODEL.OHEM = CN()

    # Remove a RoI if its IoU with one of a larger loss is larger than this. 1.0 turns the NMS off.
    _C.MODEL.OHEM.NMS_THRESH = 0.7

    # If False, all RoIs of an image compete in this NMS, as in the paper's text. If True, only
    # those with the same label do (background is one label), as in the authors' code.
    _C.MODEL.OHEM.NMS_PER_CLASS = False

    # Mine among at most this many RoIs of an image: all foreground, and a random part of the
    # background. The read-only pass, most of what mining costs, takes that much less time. 0: all
    # RoIs, as in the paper. As many as BATCH_SIZE_PER_IMAGE: random sampling.
    _C.MODEL.OHEM.POOL_SIZE = 0

    # "mined": foreground is ranked like background, as in the paper. "sampled": it is a random
    # sample, as in detectron2 (at most MODEL.ROI_HEADS.POSITIVE_FRACTION), and the hardest
    # background fills the batch. docs/settings.md says when to choose it.
    _C.MODEL.OHEM.FOREGROUND = "mined"

    # None: the hardest RoIs are kept, foreground or not, as in the paper. Otherwise foreground and
    # background are mined separately, and at most this fraction of the kept RoIs is foreground.
    # 0.25 is the 1:3 variant of other frameworks. Only if FOREGROUND is "mined".
    _C.MODEL.OHEM.POSITIVE_FRACTION = None

    # Sample RoIs at random, as in detectron2, for this many iterations before mining starts: a box
    # head that begins at random can collapse if it is mined from the start. None: as long as the
    # learning rate warms up (SOLVER.WARMUP_ITERS), a tenth of the training or 150 iterations,
    # whichever is longest. The paper, whose head begins with ImageNet's weights, has 0.
    _C.MODEL.OHEM.WARMUP_ITERS = None

    # Weight of the box regression loss in the ranking, on top of its weight in training
    # (MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT), which it leaves alone.
    _C.MODEL.OHEM.BOX_LOSS_WEIGHT = 1.0

    # RoIs, of all images of a process, in one forward of the read-only pass. It bounds the memory
    # and does not change the result. 0: all at once, which doubles the memory of C4 models.
    _C.MODEL.OHEM.MINING_BATCH_SIZE = 512

    # Run mining in half precision regardless of the training precision. Faster; may select
    # different RoIs.
    _C.MODEL.OHEM.MINING_HALF_PRECISION = False

    # The following is used by OHEM's heads and by HeuristicROIHeads, their baseline.

    # A RoI is neither foreground nor background if more than this part of its area lies in an
    # ignore region: a crowd (COCO), or a difficult object (PASCAL VOC, see DATASETS.DIFFICULT).
    _C.MODEL.ROI_HEADS.IGNORE_IOA_THRESH = 0.7

    # bg_lo of HeuristicROIHeads: background RoIs have at least this IoU with an object (and less
    # than MODEL.ROI_HEADS.IOU_THRESHOLDS). Fast R-CNN has 0.1.
    _C.MODEL.ROI_HEADS.BG_LO = 0.0

    # Used by build_torchvision_backbone and build_torchvision_fpn_backbone (MODEL.BACKBONE.NAME).
    # MODEL.BACKBONE.FREEZE_AT counts stages: 2 freezes conv1 and conv2 of VGG.
    _C.MODEL.TORCHVISION = CN()

    # An image classifier in torchvision that has `features`: VGG, SqueezeNet, DenseNet, ...
    _C.MODEL.TORCHVISION.NAME = "vgg16"

    # Batch norms of the classifier. "FrozenBN", as in detectron2's ResNets: they keep what is in
    # MODEL.WEIGHTS, because the statistics of a few images are noisy. "BN", for training from
    # random weights: they train, except in frozen stages.
    _C.MODEL.TORCHVISION.NORM = "FrozenBN"

    # Stages to return, from "stage1". []: the last, which is "stage5" for VGG. With FPN,
    # MODEL.FPN.IN_FEATURES names the stages instead; []: all of stride 4 or more.
    _C.MODEL.TORCHVISION.OUT_FEATURES = []

    # Used by VGGBoxHead (MODEL.ROI_BOX_HEAD.NAME): output dimensions of fc6 and fc7.
    # VGG_CNN_M_1024 has 4096 and 1024.
    _C.MODEL.ROI_BOX_HEAD.FC_DIMS = [4096, 4096]

    # Used by VGGBoxHead: dropout probability after fc6 and fc7 in training.
    _C.MODEL.ROI_BOX_HEAD.DROPOUT = 0.5

    # The following are used by ohem-d2 train.

    # What to do in training with objects that PASCAL VOC marks as difficult: "train" on them, like
    # detectron2; "drop" them, which makes RoIs on them background, like the paper's code; or
    # "ignore" them, which makes them ignore regions.
    _C.DATASETS.DIFFICULT = "ignore"

    # Split the images of a process into this many forward and backward passes, and accumulate their
    # gradients, to save memory. The paper has one image per pass.
    _C.SOLVER.ACCUMULATION_PASSES = 1

    # The following are used by build_test_time_model, and so by ohem-d2 train --eval-only.
    # Multi-scale testing is detectron2's own TEST.AUG.

    # Iterative bounding-box regression: score and relocalize boxes in rounds.
    _C.TEST.ITERATIVE_BBOX = CN({"ENABLED": False})

    # Number of rounds. 1 is detectron2's inference; the paper has 2.
    _C.TEST.ITERATIVE_BBOX.NUM_ROUNDS = 2

    # Boxes with a higher score go into the next round.
    _C.TEST.ITERATIVE_BBOX.SCORE_THRESH = 0.2

    # Box voting: replace each detection by the mean, weighted by score, of the boxes of its class
    # that overlap it.
    _C.TEST.BOX_VOTING = CN({"ENABLED": False})

    # IoU threshold of the NMS before voting. None: MODEL.ROI_HEADS.NMS_THRESH_TEST. The paper has
    # 0.3.
    _C.TEST.BOX_VOTING.NMS_THRESH = None

    # Boxes vote on a detection if their IoU with it is at least this.
    _C.TEST.BOX_VOTING.IOU_THRESH = 0.5

    # New score of a detection: "ID", unchanged, as in the paper; or "AVG", "IOU_AVG", "TEMP_AVG",
    # "GENERALIZED_AVG" or "QUASI_SUM" of its voters, as in Detectron.
    _C.TEST.BOX_VOTING.SCORING_METHOD = "ID"

    # Parameter of the last three, a positive number.
    _C.TEST.BOX_VOTING.SCORING_METHOD_BETA = 1.0
