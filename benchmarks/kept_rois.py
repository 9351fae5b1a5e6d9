"""
Where the RoIs lie that are hard for a model.
"""

from collections.abc import Iterable

import torch
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor

from ohem_d2.evaluation.mean_roi_loss import features_and_rois
from ohem_d2.modeling.roi_heads import nms_by_loss, read_only_roi_losses, take_hardest

__all__ = ["BANDS", "hard_by_iou"]

# Of the IoU with the object that a RoI is assigned to. The foreground begins in the middle.
BANDS = (0.1, 0.4, 0.5, 0.6)


@torch.no_grad()
def hard_by_iou(
    model: GeneralizedRCNN, inputs: Iterable[list[dict]], batch_size: int
) -> dict[str, list[float]]:
    """
    Args:
        model (GeneralizedRCNN): with ROI heads that :func:`read_only_roi_losses` knows.
        inputs: batches in detectron2's standard format, with "instances".
        batch_size (int): B, how many RoIs of an image the paper's recipe would keep.

    Returns:
        dict[str, list[float]]: "all" and "hard", of all RoIs and of those that are kept how many
        an image lie below the first of BANDS, between two of them, and above the last.
    """
    counts = {"all": torch.zeros(len(BANDS) + 1), "hard": torch.zeros(len(BANDS) + 1)}
    num_images = 0
    heads = model.roi_heads
    with inference_context(model):
        for batch in inputs:
            features, rois = features_and_rois(model, batch)
            losses = read_only_roi_losses(heads, features, rois)
            total = losses["loss_cls"] + losses["loss_box_reg"]
            for x, loss in zip(rois, total.split([len(x) for x in rois]), strict=True):
                survivors = nms_by_loss(x.proposal_boxes.tensor, loss, x.gt_classes)
                hard = take_hardest(survivors, x.gt_classes, batch_size, heads.num_classes)
                band = torch.bucketize(
                    _ious(x), torch.tensor(BANDS, device=loss.device), right=True
                )
                for name, kept in (("all", band), ("hard", band[hard])):
                    counts[name] += torch.bincount(kept, minlength=len(BANDS) + 1).cpu()
                num_images += 1
    return {name: (x / num_images).tolist() for name, x in counts.items()}


def _ious(rois: Instances) -> Tensor:
    """
    Returns:
        Tensor: (R,) IoU of each RoI with its object, 0 if the image has none.
    """
    if not rois.has("gt_boxes"):
        return torch.zeros(len(rois), device=rois.gt_classes.device)
    # gt_boxes has a row for each RoI: the diagonal is its own. There are a few hundred.
    return pairwise_iou(rois.proposal_boxes, rois.gt_boxes).diag()
