"""
Which RoIs a model is trained on, in a sentence for the log.
"""

from detectron2.modeling.roi_heads import ROIHeads

__all__ = ["describe_sampling"]


def describe_sampling(roi_heads: ROIHeads) -> str:
    """
    Args:
        roi_heads (ROIHeads): with or without online hard example mining.

    Returns:
        str: such as "StandardROIHeads: 512 random RoIs of each image, at most 25% foreground."
    """
    name = type(roi_heads).__name__
    batch_size, fraction = roi_heads.batch_size_per_image, roi_heads.positive_fraction
    if not hasattr(roi_heads, "ohem_foreground"):
        bg_lo = getattr(roi_heads, "bg_lo", 0.0)
        background = f", background with an IoU of at least {bg_lo}" if bg_lo else ""
        return (
            f"{name}: {batch_size} random RoIs of each image, at most {fraction:.0%} "
            f"foreground{background}."
        )
    largest = "with the largest loss"
    if roi_heads.ohem_foreground == "sampled":
        kept = (
            f"of {batch_size} RoIs of each image, at most {fraction:.0%} are random foreground, "
            f"and the others are the background {largest}"
        )
    else:
        kept = f"the {batch_size} RoIs of each image {largest}"
        if roi_heads.ohem_positive_fraction is not None:
            kept += f", at most {roi_heads.ohem_positive_fraction:.0%} foreground"
    pool = f" among {roi_heads.ohem_pool_size} RoIs" if roi_heads.ohem_pool_size else ""
    per_class = " per class" if roi_heads.ohem_nms_per_class else ""
    warmup = roi_heads.ohem_warmup_iters
    first = f"; before, random RoIs for {warmup} iterations" if warmup else ""
    return (
        f"{name} (online hard example mining): {kept}{pool}, after NMS at "
        f"{roi_heads.ohem_nms_thresh}{per_class}{first}."
    )
