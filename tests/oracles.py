"""
Slow, obvious implementations to compare the fast ones with.
"""

import numpy as np
from conftest import NUM_CLASSES


def iou(a: np.ndarray, b: np.ndarray) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def select_slowly(boxes, losses, labels, batch_size, nms_thresh, per_class, positive_fraction):
    """
    As the paper puts it: sort by loss, take the RoI with the largest loss, remove the RoIs with a
    lower loss that overlap it, and repeat until B are taken.
    """
    losses = [x if np.isfinite(x) else np.inf for x in losses]
    remaining = sorted(range(len(boxes)), key=lambda i: (-losses[i], i))
    ranked = []
    while remaining:
        hardest = remaining.pop(0)
        ranked.append(hardest)
        if nms_thresh < 1:
            remaining = [
                i
                for i in remaining
                if (per_class and labels[i] != labels[hardest])
                or iou(boxes[i], boxes[hardest]) <= nms_thresh
            ]
    if positive_fraction is None:
        return ranked[:batch_size]
    fg = [i for i in ranked if labels[i] != NUM_CLASSES][: int(batch_size * positive_fraction)]
    bg = [i for i in ranked if labels[i] == NUM_CLASSES][: batch_size - len(fg)]
    return [i for i in ranked if i in fg or i in bg]


def new_score(s, overlaps, method, beta):
    """
    Detectron's formulas, from the scores of the voters and their IoU with the box.
    """
    if method == "AVG":
        return s.mean()
    if method == "IOU_AVG":
        return (s * overlaps).sum() / overlaps.sum()
    if method == "TEMP_AVG":
        hot, cold = s ** (1 / beta), (1 - s) ** (1 / beta)
        return (hot / (hot + cold)).mean()
    if method == "GENERALIZED_AVG":
        return (s**beta).mean() ** (1 / beta)
    if method == "QUASI_SUM":
        return s.sum() / len(s) ** beta
    raise AssertionError(method)


def slow_box_voting(boxes, scores, classes, nms_thresh, iou_thresh, method, beta):
    """
    NMS and voting, one pair of boxes at a time.

    Returns:
        dict: the new box and score of each box that NMS keeps, by its index.
    """
    # NMS; of equal scores, the first comes first
    keep = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        same = [j for j in keep if classes[j] == classes[i]]
        if all(iou(boxes[i], boxes[j]) <= nms_thresh for j in same):
            keep.append(i)

    voted = {}
    for i in keep:
        voters = [
            j
            for j in range(len(boxes))
            if classes[j] == classes[i] and iou(boxes[i], boxes[j]) >= iou_thresh
        ]
        s = np.maximum(scores[voters], 0)
        box, score = boxes[i], scores[i]
        if s.sum() > 0:
            box = (s[:, None] * boxes[voters]).sum(0) / s.sum()
        if method != "ID" and voters:
            overlaps = np.array([iou(boxes[i], boxes[j]) for j in voters])
            score = new_score(s, overlaps, method, beta)
        voted[i] = box, score
    return voted
