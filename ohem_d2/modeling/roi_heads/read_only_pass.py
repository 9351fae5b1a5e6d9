"""
The read-only pass: the loss of every RoI, without a trace in the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from detectron2.layers import cat
from detectron2.modeling.roi_heads import CascadeROIHeads, ROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .box_branch import box_head, box_predictors, forward_rois, split_rois
from .roi_loss import fed_loss_class_mask, roi_losses

__all__ = ["compute_roi_losses"]


@torch.no_grad()
def compute_roi_losses(
    roi_heads: ROIHeads,
    features: dict[str, Tensor],
    rois: list[Instances],
    batch_size: int = 0,
    stage: int = 0,
    half_precision: bool = False,
) -> list[Instances]:
    """
    Forward all RoIs through the box pooler, head and predictor, and compute the loss of each.

    No parameter, buffer or gradient of the model changes. In training mode dropout is active, with
    masks of its own, as in the authors' code. Layers with running statistics (batch norm) use
    these and do not update them: a RoI's loss does not depend on its batch, and processes need not
    run the same number of batches. The RoIs that are kept are pooled again in training: to keep the
    pooled features of all RoIs instead would save a few percent of a step, and take the memory.

    Args:
        roi_heads (ROIHeads): :class:`StandardROIHeads`, :class:`Res5ROIHeads` or
            :class:`CascadeROIHeads`.
        features (dict[str, Tensor]): same as in :meth:`ROIHeads.forward`.
        rois (list[Instances]): for each image, labeled RoIs from :func:`label_rois`.
        batch_size (int): number of RoIs per forward, which bounds the memory. 0 for all.
        stage (int): stage of a cascade, from 0.
        half_precision (bool): whether to forward in half precision, regardless of the precision
            of training.

    Returns:
        list[Instances]: the RoIs, with these fields added:

        - loss_cls, loss_box_reg: float32 of shape (Ri,), see :func:`roi_losses`.
        - pred_classes: (Ri,) foreground class with the largest score.
        - pred_boxes: the predicted boxes. Only in a cascade, whose boxes are class-agnostic.
    """
    gt_classes = cat([x.gt_classes for x in rois])
    num_rois = len(gt_classes)
    predictor = box_predictors(roi_heads)[stage]
    # Drawn once for all batches, as the training loss does for its minibatch.
    class_mask = fed_loss_class_mask(predictor, gt_classes) if num_rois else None

    precision = _half_precision(gt_classes.device) if half_precision else nullcontext()
    outputs = []
    with precision, _use_running_statistics(box_head(roi_heads, stage), predictor):
        # Without RoIs, an empty batch gives the shapes.
        for batch in split_rois(rois, batch_size or max(num_rois, 1)):
            predictions = forward_rois(roi_heads, features, batch, stage)
            output = roi_losses(predictor, predictions, batch, class_mask)
            output["pred_classes"] = predictions[0][:, :-1].argmax(dim=1)
            if isinstance(roi_heads, CascadeROIHeads):
                output["pred_boxes"] = cat(predictor.predict_boxes(predictions, batch))
            outputs.append(output)
    # On older PyTorch (2.4, not 2.13) autocast has now cached half-precision copies of the weights
    # without gradients. If the training pass used them, the weights would get none.
    torch.clear_autocast_cache()

    counts = [len(x) for x in rois]
    columns = {k: cat([x[k] for x in outputs]).split(counts) for k in outputs[0]}
    scored = []
    for i, rois_per_image in enumerate(rois):
        fields = {k: v[i] for k, v in columns.items()}
        if "pred_boxes" in fields:
            fields["pred_boxes"] = Boxes(fields["pred_boxes"])
        scored.append(
            Instances(rois_per_image.image_size, **{**rois_per_image.get_fields(), **fields})
        )
    return scored


def _half_precision(device: torch.device) -> torch.autocast:
    """
    bfloat16 where the device supports it: what float32 can hold does not overflow there.
    """
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16 if has_bfloat16 else torch.float16)


@contextmanager
def _use_running_statistics(*modules: nn.Module) -> Iterator[None]:
    """
    Have layers with running statistics normalize by them, and not update them.
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
