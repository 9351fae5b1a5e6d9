"""
Box voting (Gidaris & Komodakis 2015, arXiv:1505.01749): the boxes that NMS removes help to place
those that it keeps. Pure functions on the tensors of one image.

Shape shorthand in this module:

    R: number of boxes of the image, of all classes
    M: number of them that are kept
"""

from collections.abc import Iterator

import torch
from detectron2.layers import batched_nms
from torch import Tensor

__all__ = ["SCORING_METHODS", "box_voting"]

# What becomes of a score, by the names of Detectron's `bbox_vote`.
SCORING_METHODS = ("ID", "AVG", "IOU_AVG", "TEMP_AVG", "GENERALIZED_AVG", "QUASI_SUM")

# How many pairs of boxes are looked at at a time. It bounds the memory, to some 10 MiB, and is
# small enough for a CPU's cache.
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
    Apply NMS for each class. Then each box that is kept becomes the mean of its voters, weighted
    by their scores: of all boxes of its class, those whose IoU with it is at least `iou_thresh`,
    itself included. A negative score counts as zero. A box without a voter of a positive score
    stays where it is, as does one of no area.

    Args:
        boxes (Tensor): (R, 4) boxes (x1, y1, x2, y2) in pixels, finite.
        scores (Tensor): (R,) score of each box, finite.
        classes (Tensor): (R,) class of each box, of an integer type.
        nms_thresh (float): NMS removes a box if its IoU with one of a higher score is larger than
            this.
        iou_thresh (float): the lowest IoU of a voter.
        scoring_method (str): what becomes of the score of a kept box. With s the scores of its n
            voters, as in Detectron's `box_voting`:

            - "ID": it stays, as in the paper;
            - "AVG": mean(s);
            - "IOU_AVG": mean(s), weighted by the IoU of each voter with the box;
            - "TEMP_AVG": mean(sigmoid(logit(s) / beta)), softened by a temperature;
            - "GENERALIZED_AVG": mean(s^beta)^(1 / beta);
            - "QUASI_SUM": sum(s) / n^beta.
        beta (float): positive, used by the last three.
        topk (int): keep at most this many, those of the highest score before it changes. Negative
            for all.

    Returns:
        (Tensor, Tensor, Tensor): (M, 4) boxes and (M,) scores after voting, the highest score
        first, and (M,) the indices in [0, R) of the boxes that they were.

    Raises:
        ValueError: if there is no such scoring method.
    """
    if scoring_method not in SCORING_METHODS:
        raise ValueError(
            f"The scoring method of box voting is {scoring_method!r}, and has to be one of: "
            f"{', '.join(SCORING_METHODS)}."
        )
    keep = batched_nms(boxes, scores, classes, nms_thresh)
    if topk >= 0:
        keep = keep[:topk]
    voted_boxes, voted_scores, kept_classes = boxes[keep], scores[keep], classes[keep]

    # Sorted by class, boxes that belong together are in one piece.
    by_class = classes.argsort()
    corners, classes = boxes[by_class].T.contiguous(), classes[by_class]  # 4 x R
    # In float64, which neither autocast nor TF32 shortens: their error would be a pixel.
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
    Cut the M x R pairs of a kept box and any into blocks of at most MAX_PAIRS, and leave out most
    pairs of two classes: small classes share a block, as each block costs some time.

    Args:
        kept_classes, classes (Tensor): (M,) and (R,), the latter sorted.

    Returns:
        Iterator of (Tensor, slice): the kept boxes, indices in [0, M), and boxes, of [0, R), of a
        block. Each kept box is in one, together with all boxes of its class.
    """
    rows = kept_classes.argsort()
    begin = torch.searchsorted(classes, kept_classes[rows]).tolist()
    end = torch.searchsorted(classes, kept_classes[rows], right=True).tolist()
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
    :func:`pairwise_iou` of detectron2, a coordinate at a time and in place: on a CPU, in less than
    half the time.

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
        Tensor: (R,) what a voter of this score adds to the sum of a scoring method.
    """
    if scoring_method == "TEMP_AVG":
        return (s.clamp(max=1).logit() / beta).sigmoid()
    if scoring_method == "GENERALIZED_AVG":
        return s**beta
    return s


def _score(sums: Tensor, counts: Tensor, scoring_method: str, beta: float) -> Tensor:
    """
    Returns:
        Tensor: the new score, of the sum of the voters' terms and of their number.
    """
    if scoring_method == "QUASI_SUM":
        return sums / counts**beta
    if scoring_method == "GENERALIZED_AVG":
        return (sums / counts) ** (1 / beta)
    return sums / counts
