"""
What mining keeps if the read-only pass alone runs in half precision.
"""

from typing import Any

import torch

from ohem_d2.modeling.roi_heads import compute_roi_losses, nms_by_loss, take_hardest

__all__ = ["HalfPrecision"]


class HalfPrecision:
    """
    Counts, for bfloat16 and float16, what mining keeps if the read-only pass alone runs in that
    precision: the share of it that float32 keeps as well, and its mean loss in float32 beside that
    of what float32 keeps.
    """

    def __init__(self) -> None:
        self.kept = {torch.float32: 0, torch.bfloat16: 0, torch.float16: 0}
        self.shared = dict.fromkeys(self.kept, 0)
        self.loss = dict.fromkeys(self.kept, 0.0)

    def add(self, model: Any, features: Any, rois: Any) -> None:
        heads = model.roi_heads
        exact: list[Any] = []  # for each image, the losses, and which RoIs float32 keeps
        for dtype in self.kept:
            with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
                scored = compute_roi_losses(heads, features, rois)
            for i, x in enumerate(scored):
                losses = x.loss_cls + x.loss_box_reg
                ranked = nms_by_loss(x.proposal_boxes.tensor, losses, x.gt_classes)
                inds = take_hardest(
                    ranked, x.gt_classes, heads.batch_size_per_image, heads.num_classes
                )
                if dtype == torch.float32:
                    exact.append((losses, set(inds.tolist())))
                self.kept[dtype] += len(inds)
                self.shared[dtype] += len(exact[i][1] & set(inds.tolist()))
                self.loss[dtype] += float(exact[i][0][inds].sum())

    def result(self) -> dict[str, dict[str, float]]:
        mean_loss = {x: self.loss[x] / self.kept[x] for x in self.kept}
        return {
            str(x).removeprefix("torch."): {
                "shared": self.shared[x] / self.kept[x],
                "loss_ratio": mean_loss[x] / mean_loss[torch.float32],
            }
            for x in (torch.bfloat16, torch.float16)
        }
