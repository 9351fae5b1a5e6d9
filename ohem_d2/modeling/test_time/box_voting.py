"""
Box voting (Gidaris & Komodakis 2015, arXiv:1505.01749): boxes that NMS removes help to place those
that it keeps. Pure functions on the tensors of one image.

Shape shorthand in this module:

    R: number of boxes of all classes
    M: number of boxes that NMS keeps
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...structures.nms_by_class import nms_by_class

__all__ = ["SCORING_METHODS", "box_voting"]

# How voting changes a score, as named in Detectron's `bbox_vote`.
SCORING_METHODS = ("ID", "AVG", "IOU_AVG", "TEMP_AVG", "GENERALIZED_AVG", "QUASI_SUM")

# Pairs of boxes that are compared at a time. Bounds the memory to some 10 MiB, and fits a CPU's
# cache.
MAX_PAIRS = 2**18


def box_voting(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    nms_thresh: float,
    iou_thresh: float = 0.5,
    scoring_method: str = "ID",
    beta: float = 1.0,
    topk: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Apply NMS for each class. Then move each kept box to the mean of its voters, weighted by their
    scores. Its voters are all boxes of its class with an IoU of at least `iou_thresh`, itself
    included. A negative score counts as zero. A box without area, or without a voter of positive
    score, stays where it is.

    Args:
        boxes (Tensor): (R, 4) boxes (x1, y1, x2, y2) in pixels, finite.
        scores (Tensor): (R,) score of each box, finite.
        classes (Tensor): (R,) class of each box, of an integer type.
        nms_thresh (float): NMS removes a box whose IoU with a box of higher score exceeds this.
        iou_thresh (float): the lowest IoU of a voter.
        scoring_method (str): the new score of a kept box, one of SCORING_METHODS. With s the scores
            of its n voters, as in Detectron's `box_voting`:

            - "ID": its own score, as in the paper;
            - "AVG": mean(s);
            - "IOU_AVG": mean(s), weighted by the IoU of each voter with the box;
            - "TEMP_AVG": mean(sigmoid(logit(s) / beta)), softened by a temperature;
            - "GENERALIZED_AVG": mean(s^beta)^(1 / beta);
            - "QUASI_SUM": sum(s) / n^beta.
        beta (float): positive, used by the last three.
        topk (int): keep at most this many, those with the highest scores before voting. Negative:
            all.

    Returns:
        (Tensor, Tensor, Tensor): boxes (M, 4) and scores (M,) after voting, by decreasing score,
        and the indices (M,) in [0, R) of the kept boxes.
    """
    assert scoring_method in SCORING_METHODS, scoring_method
    keep = nms_by_class(boxes.float(), scores, classes, nms_thresh)
    if topk >= 0:
        keep = keep[:topk]
    voted_boxes, voted_scores, kept_classes = boxes[keep], scores[keep], classes[keep]

    # Sorted by class, the boxes of a class are contiguous.
    by_class = classes.argsort()
    corners, classes = boxes[by_class].T.contiguous(), classes[by_class]  # 4 x R
    # In float64, which autocast and TF32 leave alone: their rounding error would be a pixel.
    s = scores[by_class].double().clamp(min=0)
    ballots = torch.cat([s * corners, s[None]])  # 5 x R, the last their weights
    terms = torch.stack([_term(s, scoring_method, beta), torch.ones_like(s)])  # 2 x R
    for rows, columns in _pairs_of_a_class(kept_classes, classes):
        iou = _pairwise_iou(voted_boxes[rows].T, corners[:, columns])
        votes = (iou >= iou_thresh) & (kept_classes[rows, None] == classes[columns])
        votes = votes.double()

        total = votes @ ballots[:, columns].T
        mean = (total[:, :4] / total[:, 4:]).to(boxes.dtype)
        voted_boxes[rows] = torch.where(total[:, 4:] > 0, mean, voted_boxes[rows])

        if scoring_method != "ID":
            shares = votes * iou if scoring_method == "IOU_AVG" else votes
            sums, counts = (shares @ terms[:, columns].T).unbind(dim=1)
            score = _score(sums, counts, scoring_method, beta).to(scores.dtype)
            voted_scores[rows] = torch.where(counts > 0, score, voted_scores[rows])

    order = torch.sort(voted_scores, descending=True, stable=True).indices
    return voted_boxes[order], voted_scores[order], keep[order]


def _pairs_of_a_class(kept_classes: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """
    Cut the M x R pairs of a kept box and any box into blocks of at most MAX_PAIRS, without most of
    the pairs of different classes. Small classes share a block, because each block has a cost.

    Args:
        kept_classes, classes (Tensor): (M,) and (R,), the latter sorted.

    Returns:
        Iterator of (Tensor, slice): for each block, the indices in [0, M) of its kept boxes, and
        its boxes in [0, R). Each kept box is in the blocks together with all boxes of its class.
    """
    rows = kept_classes.argsort()
    bounds = [torch.searchsorted(classes, kept_classes[rows], right=x) for x in (False, True)]
    begin, end = torch.stack(bounds).tolist()  # a GPU is waited for once
    first = 0
    for i in range(len(rows)):
        if i + 1 < len(rows):
            num_pairs = (i + 2 - first) * (end[i + 1] - begin[first])  # with the next kept box
            is_one_class = begin[i + 1] == begin[first]
            if num_pairs <= (MAX_PAIRS if is_one_class else MAX_PAIRS // 4):
                continue
        yield rows[first : i + 1], slice(begin[first], end[i])
        first = i + 1


def _pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """
    Same as detectron2's :func:`pairwise_iou`, one coordinate at a time and in place, which takes
    less than half the time on a CPU.

    Args:
        boxes1, boxes2 (Tensor): (4, N) and (4, M) boxes.

    Returns:
        Tensor: (N, M), 0 if neither box has an area.
    """
    x0, y0, x1, y1 = boxes1[..., None]
    u0, v0, u1, v1 = boxes2
    width = torch.minimum(x1, u1).sub_(torch.maximum(x0, u0)).clamp_(min=0)
    height = torch.minimum(y1, v1).sub_(torch.maximum(y0, v0)).clamp_(min=0)
    shared = width.mul_(height)
    area1, area2 = (x1 - x0) * (y1 - y0), (u1 - u0) * (v1 - v0)
    return shared.div_((area1 + area2).sub_(shared)).nan_to_num_()


def _term(s: Tensor, scoring_method: str, beta: float) -> Tensor:
    """
    Returns:
        Tensor: (R,) what a voter with this score adds to the sum of the scoring method.
    """
    if scoring_method == "TEMP_AVG":
        return (s.clamp(max=1).logit() / beta).sigmoid()
    if scoring_method == "GENERALIZED_AVG":
        return s**beta
    return s


def _score(sums: Tensor, counts: Tensor, scoring_method: str, beta: float) -> Tensor:
    """
    Returns:
        Tensor: the new scores, from the sums of the voters' terms and their numbers.
    """
    if scoring_method == "QUASI_SUM":
        return sums / counts**beta
    if scoring_method == "GENERALIZED_AVG":
        return (sums / counts) ** (1 / beta)
    return sums / counts
