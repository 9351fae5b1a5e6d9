from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY

from ..modeling import OHEMMixin
from ..modeling.roi_heads.ohem import warmup_iters

__all__ = ["describe_sampling"]


def describe_sampling(cfg: CfgNode) -> str:
    """
    Returns:
        str: a sentence that says which RoIs the model is trained on.
    """
    heads, ohem = cfg.MODEL.ROI_HEADS, cfg.MODEL.OHEM
    if not issubclass(ROI_HEADS_REGISTRY.get(heads.NAME), OHEMMixin):
        background = f", background with an IoU of at least {heads.BG_LO}" if heads.BG_LO else ""
        return (
            f"{heads.NAME}, {heads.BATCH_SIZE_PER_IMAGE} random RoIs per image, at most "
            f"{heads.POSITIVE_FRACTION:.0%} foreground{background}."
        )
    if ohem.FOREGROUND == "sampled":
        foreground = f"the foreground a random sample of at most {heads.POSITIVE_FRACTION:.0%}"
    elif ohem.POSITIVE_FRACTION is None:
        foreground = "foreground and background in any ratio"
    else:
        foreground = f"at most {ohem.POSITIVE_FRACTION:.0%} foreground"
    pool = f" among {ohem.POOL_SIZE}" if ohem.POOL_SIZE else ""
    warmup = warmup_iters(cfg)
    too_long = f" (mining never starts: SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER})"
    return (
        f"{heads.NAME} (online hard example mining), the {heads.BATCH_SIZE_PER_IMAGE} RoIs per "
        f"image with the largest loss{pool} after NMS at {ohem.NMS_THRESH}"
        f"{' per class' if ohem.NMS_PER_CLASS else ''}, {foreground}"
        f"{f', after {warmup} iterations of random sampling' if warmup else ''}"
        f"{too_long if warmup >= cfg.SOLVER.MAX_ITER else ''}."
    )
