"""
The label of every RoI: what ``ROIHeads.label_and_sample_proposals`` does before it samples.
"""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import Instances, pairwise_iou

from .ignore_regions import remove_ignored_proposals

__all__ = ["label_rois", "look_up_targets"]


@torch.no_grad()
def label_rois(
    proposals: list[Instances],
    targets: list[Instances],
    proposal_matcher: Matcher,
    num_classes: int,
    append_gt: bool = False,
    ignore_ioa_thresh: float = 1.0,
) -> list[Instances]:
    """
    Match all proposals with the ground truth, and drop those on ignore regions and those that the
    matcher ignores. Targets other than classes and boxes are left to :func:`look_up_targets`.

    Args:
        proposals (list[Instances]): for each image, the proposals with the field
            "proposal_boxes".
        targets (list[Instances]): for each image, the objects with "gt_boxes" and "gt_classes".
        proposal_matcher (Matcher): labels foreground 1, background 0 and ignored RoIs -1.
        num_classes (int): number of foreground classes, and the label of the background.
        append_gt (bool): whether to add the ground-truth boxes, which no ignore region removes.
            The proposals then need the field "objectness_logits".
        ignore_ioa_thresh (float): see :func:`remove_ignored_proposals`. 1 for no ignore regions.

    Returns:
        list[Instances]: for each image, the proposals that are not ignored, in their order, with
        these fields added:

        - gt_classes: class of the object that the proposal is assigned to, or the background label.
        - gt_inds: index of this object in the image's targets. Arbitrary for background, and 0 if
          there is no object.
        - gt_boxes: box of this object. Absent if the image has no objects.
    """
    proposals = remove_ignored_proposals(proposals, targets, ignore_ioa_thresh)
    if append_gt:
        proposals = add_ground_truth_to_proposals(targets, proposals)
    labeled = []
    for proposals_per_image, targets_per_image in zip(proposals, targets, strict=True):
        gt_inds, match_labels = proposal_matcher(
            pairwise_iou(targets_per_image.gt_boxes, proposals_per_image.proposal_boxes)
        )
        has_gt = len(targets_per_image) > 0
        if has_gt:
            gt_classes = targets_per_image.gt_classes[gt_inds]
            gt_classes[match_labels == 0] = num_classes
        else:
            gt_classes = torch.full_like(gt_inds, num_classes)
        gt_classes[match_labels == -1] = -1

        # A new Instances, because the caller may use its own elsewhere.
        labeled_per_image = Instances(
            proposals_per_image.image_size, **proposals_per_image.get_fields()
        )
        labeled_per_image.gt_classes = gt_classes
        labeled_per_image.gt_inds = gt_inds
        if has_gt:
            labeled_per_image.gt_boxes = targets_per_image.gt_boxes[gt_inds]
        # This waits for the GPU: only if the matcher ignores at all, and once for all fields.
        if -1 in proposal_matcher.labels:
            labeled_per_image = labeled_per_image[torch.where(gt_classes >= 0)[0]]
        labeled.append(labeled_per_image)
    return labeled


def look_up_targets(rois: list[Instances], targets: list[Instances]) -> list[Instances]:
    """
    Add the targets of mask, keypoint and other heads. This comes after the selection of hard RoIs,
    because a copy of an object's mask for each of thousands of RoIs would fill the memory.

    Args:
        rois (list[Instances]): for each image, RoIs from :func:`label_rois`.
        targets (list[Instances]): for each image, the objects.

    Returns:
        list[Instances]: the RoIs, each with all "gt_*" fields of the object it is assigned to in
        place of "gt_inds".
    """
    for rois_per_image, targets_per_image in zip(rois, targets, strict=True):
        gt_inds = rois_per_image.gt_inds
        rois_per_image.remove("gt_inds")
        if len(targets_per_image) == 0:
            continue
        for name, value in targets_per_image.get_fields().items():
            if name.startswith("gt_") and not rois_per_image.has(name):
                rois_per_image.set(name, value[gt_inds])
    return rois
