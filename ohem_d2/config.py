from detectron2.config import CfgNode as CN


def add_ohem_config(cfg: CN) -> None:
    """
    Add the config of online hard example mining, with its default values.
    """
    _C = cfg

    # Used if MODEL.ROI_HEADS.NAME is OHEMROIHeads. How many RoIs an image are kept is
    # MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE; MODEL.ROI_HEADS.POSITIVE_FRACTION is not used.
    _C.MODEL.OHEM = CN()

    # A RoI is removed if its IoU with one of a larger loss is larger than this. 1.0 turns the NMS
    # off.
    _C.MODEL.OHEM.NMS_THRESH = 0.7

    # If False, all RoIs of an image compete in this NMS, as the paper's text reads. If True, only
    # those of the same label do (background is one label), as in the authors' code.
    _C.MODEL.OHEM.NMS_PER_CLASS = False

    # None: the hardest RoIs are kept whatever they are, as in the paper. Otherwise foreground and
    # background are mined apart, and at most this fraction of the kept RoIs is foreground. 0.25
    # is the 1:3 variant of other frameworks.
    _C.MODEL.OHEM.POSITIVE_FRACTION = None

    # Weights of the classification and the box regression loss in the ranking (not in training:
    # that is MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT, which the ranking includes).
    _C.MODEL.OHEM.CLS_LOSS_WEIGHT = 1.0
    _C.MODEL.OHEM.BOX_LOSS_WEIGHT = 1.0

    # Number of RoIs, of all images of a process together, in one read-only forward. It bounds the
    # memory, and does not change the result. 0: all at once.
    _C.MODEL.OHEM.MINING_BATCH_SIZE = 0
