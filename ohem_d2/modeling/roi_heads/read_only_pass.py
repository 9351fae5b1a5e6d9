"""
The read-only pass: what the box head makes of all RoIs, without a trace of it in the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from detectron2.layers import cat
from detectron2.modeling.roi_heads import CascadeROIHeads, ROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .box_branch import box_head, box_predictors, forward_rois, split_rois
from .roi_loss import fed_loss_class_mask, roi_losses

__all__ = ["read_only_roi_losses"]


@torch.no_grad()
def read_only_roi_losses(
    roi_heads: ROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    batch_size: int = 0,
    stage: int = 0,
    half_precision: bool = False,
    likeliest_class: bool = False,
) -> dict[str, Tensor]:
    """
    Forward all RoIs through the box pooler, head and predictor, and return the loss of each.

    No parameter, buffer or gradient of the model changes. Dropout is as active as the mode of the
    model says, and draws masks of its own, as in the authors' code. Layers with running
    statistics (batch norm) normalize by them and leave them alone, so a RoI's loss does not depend
    on which others share its batch, and processes need not run the same number of batches.

    Args:
        roi_heads (ROIHeads): :class:`StandardROIHeads`, :class:`Res5ROIHeads` or
            :class:`CascadeROIHeads`.
        features (dict[str, Tensor]): same as in :meth:`ROIHeads.forward`.
        proposals (list[Instances]): for each image, labeled RoIs from :func:`label_rois`.
        batch_size (int): how many RoIs to forward at a time, which bounds the memory. 0 for all.
        stage (int): of a cascade, from 0.
        half_precision (bool): whether to forward in half precision, whatever that of training.
        likeliest_class (bool): whether to return that as well.

    Returns:
        dict[str, Tensor]: "loss_cls" and "loss_box_reg", float32 of shape (R,), the RoIs of all
        images in their order, see :func:`roi_losses`. If it is asked for, "likeliest_class", (R,),
        the foreground class of the largest score. Of a cascade also "pred_boxes", (R, 4): the RoIs
        of the next stage.
    """
    gt_classes = cat([p.gt_classes for p in proposals])
    num_rois = len(gt_classes)
    predictor = box_predictors(roi_heads)[stage]
    # Drawn once for all batches, as the training loss does for its minibatch.
    class_mask = fed_loss_class_mask(predictor, gt_classes) if num_rois else None

    precision = _half_precision(gt_classes.device) if half_precision else nullcontext()
    outputs = []
    with precision, _use_running_statistics(box_head(roi_heads, stage), predictor):
        # If there are no RoIs, the batch of none gives the shapes.
        for batch in split_rois(proposals, batch_size or max(num_rois, 1)):
            predictions = forward_rois(roi_heads, features, batch, stage)
            output = roi_losses(predictor, predictions, batch, class_mask)
            if likeliest_class:
                scores, _ = predictions
                output["likeliest_class"] = scores[:, :-1].argmax(dim=1)
            if isinstance(roi_heads, CascadeROIHeads):
                output["pred_boxes"] = cat(predictor.predict_boxes(predictions, batch))
            outputs.append(output)
    # On older PyTorch (2.4 does, 2.13 does not) autocast has cached half-precision copies of the
    # weights here, made without gradients. If the training pass used them, the weights would get
    # none.
    torch.clear_autocast_cache()
    return {k: cat([x[k] for x in outputs]) for k in outputs[0]}


def _half_precision(device: torch.device) -> torch.autocast:
    """
    In bfloat16 where the device computes in it, because no loss that float32 has overflows there.
    """
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16 if has_bfloat16 else torch.float16)


@contextmanager
def _use_running_statistics(*modules: nn.Module) -> Iterator[None]:
    """
    Have layers with running statistics use them instead of those of the batch, without an update.
    """
    # _NormBase: batch norm, synchronized batch norm and instance norm, and their subclasses.
    layers = [m for module in modules for m in module.modules() if isinstance(m, _NormBase)]
    training = [layer for layer in layers if layer.training]
    for layer in training:
        layer.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.train()
