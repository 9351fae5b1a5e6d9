"""
What is wrong with detections, in five kinds of errors.

They are those of Hoiem et al., Diagnosing Error in Object Detectors (ECCV 2012), as TIDE (Bolya et
al., ECCV 2020, arXiv:2008.08115) has refined them, with its thresholds of the IoU. They are counted
at a score here; neither paper does that: Hoiem et al. look at as many detections as there are
objects, and TIDE measures how much AP an error costs. Besides:
    "background" is TIDE's, and its "both": a box that is badly placed on an object of another
        class.
    "missed" are all objects that are not found. TIDE leaves out those on which a detection is badly
        placed or of another class.
    Where a detection has several faults, it is, of these, the first: a duplicate, of another class,
        badly placed.

Shapes: N detections and G objects of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor

__all__ = [
    "BG_THRESH",
    "FG_THRESH",
    "VERDICTS",
    "WRONG",
    "ErrorCounts",
    "Judgement",
    "count_errors",
    "find_best_threshold",
    "judge_detections",
]

# A box is on an object from the first IoU on, and has nothing to do with it below the second one:
# TIDE's t_f and t_b.
FG_THRESH, BG_THRESH = 0.5, 0.1

WRONG = ("background", "localization", "class", "duplicate")
VERDICTS = ("right", *WRONG, "ignored")
RIGHT, BACKGROUND, LOCALIZATION, CLASS, DUPLICATE, IGNORED = range(len(VERDICTS))


class Judgement(NamedTuple):
    """
    Of the detections of one image. It does not depend on a score threshold: a detection takes an
    object from those with a lower score only.
    """

    scores: Tensor  # (N,)
    verdicts: Tensor  # (N,) of int64, an index into VERDICTS
    # (G,) the score of the detection that is right about the object, -inf if there is none
    found_scores: Tensor


class ErrorCounts(NamedTuple):
    """
    Of the detections from some score on.
    """

    right: int  # detections, and objects that are found
    missed: int  # objects that are not
    wrong: dict[str, int]  # detections, by what is WRONG with them

    @property
    def errors(self) -> int:
        return self.missed + sum(self.wrong.values())

    @property
    def precision(self) -> float:
        return _ratio(self.right, self.right + sum(self.wrong.values()))

    @property
    def recall(self) -> float:
        return _ratio(self.right, self.right + self.missed)

    @property
    def f1(self) -> float:
        # The harmonic mean of precision and recall.
        return _ratio(2 * self.right, 2 * self.right + self.errors)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def judge_detections(
    detections: Instances,
    objects: Instances,
    ignored: Boxes,
    fg_thresh: float = FG_THRESH,
    bg_thresh: float = BG_THRESH,
) -> Judgement:
    """
    Detections are judged from the highest score to the lowest, as in COCO's evaluation. One is:
        right, if it has an IoU of at least `fg_thresh` with an object of its class that is not
            taken yet. It takes the one with the largest IoU.
        ignored, else, if at least `fg_thresh` of its area lies in an ignored box.
        a duplicate, else, if it has that IoU with an object of its class, which is taken.
        of another class, else, if it has that IoU with an object of another class.
        badly localized, else, if it has an IoU of at least `bg_thresh` with an object of its class.
        on background, else.

    Args:
        detections (Instances): of one image, with "pred_boxes", "scores" and "pred_classes".
        objects (Instances): of the image, with "gt_boxes" and "gt_classes".
        ignored (Boxes): crowds and difficult objects. Their class does not matter, other than in
            COCO's evaluation: what such a box holds is not known well enough to call a detection
            of another class an error.
        fg_thresh, bg_thresh (float): of the IoU.

    Raises:
        ValueError: if the thresholds are not 0 < bg_thresh <= fg_thresh.
    """
    if not 0 < bg_thresh <= fg_thresh:
        raise ValueError(
            f"bg_thresh is {bg_thresh} and fg_thresh {fg_thresh}: it has to be 0 < bg_thresh <= "
            "fg_thresh."
        )
    iou = pairwise_iou(detections.pred_boxes, objects.gt_boxes)  # (N, G)
    is_of_class = detections.pred_classes[:, None] == objects.gt_classes
    found_by = _match(iou * is_of_class, detections.scores, fg_thresh)
    found = found_by >= 0

    best, best_of_others = _largest(iou * is_of_class), _largest(iou * ~is_of_class)
    verdicts = torch.full((len(detections),), BACKGROUND)
    # From the last of the list above to the first, which has the last word.
    verdicts[best >= bg_thresh] = LOCALIZATION
    verdicts[best_of_others >= fg_thresh] = CLASS
    verdicts[best >= fg_thresh] = DUPLICATE
    verdicts[_largest(pairwise_ioa(ignored, detections.pred_boxes).T) >= fg_thresh] = IGNORED
    verdicts[found_by[found]] = RIGHT

    found_scores = torch.full((len(objects),), -torch.inf)
    found_scores[found] = detections.scores[found_by[found]]
    return Judgement(detections.scores, verdicts, found_scores)


def _match(iou: Tensor, scores: Tensor, thresh: float) -> Tensor:
    """
    Args:
        iou (Tensor): (N, G), 0 where the classes differ.

    Returns:
        Tensor: (G,) of int64, which detection takes the object, -1 if none does.
    """
    is_near = _largest(iou) >= thresh  # most are near no object, and need no look
    found_by = torch.full((iou.shape[1],), -1)
    for i in scores.argsort(descending=True, stable=True).tolist():
        if is_near[i]:
            free = iou[i] * (found_by < 0)
            if free.max() >= thresh:
                found_by[free.argmax()] = i
    return found_by


def _largest(values: Tensor) -> Tensor:
    """
    Returns:
        Tensor: the largest value of each row, 0 where there are no columns.
    """
    return torch.cat([values.new_zeros(len(values), 1), values], dim=1).amax(dim=1)


def count_errors(judgements: Sequence[Judgement], score_thresh: float) -> ErrorCounts:
    """
    Args:
        judgements: of some images.
        score_thresh (float): detections with a lower score do not count.
    """
    counts = torch.zeros(len(VERDICTS), dtype=torch.int64)
    num_objects = 0
    for x in judgements:
        counts += x.verdicts[x.scores >= score_thresh].bincount(minlength=len(VERDICTS))
        num_objects += len(x.found_scores)
    by_verdict = dict(zip(VERDICTS, counts.tolist(), strict=True))
    right = by_verdict["right"]
    return ErrorCounts(right, num_objects - right, {x: by_verdict[x] for x in WRONG})


def find_best_threshold(judgements: Sequence[Judgement]) -> float:
    """
    Returns:
        float: the score of a detection, from which on F1 is the largest; the highest of these if
        there are several. 1 if no detection counts.
    """
    scores = torch.cat([x.scores for x in judgements])
    verdicts = torch.cat([x.verdicts for x in judgements])
    num_objects = sum(len(x.found_scores) for x in judgements)
    scores, order = scores[verdicts != IGNORED].sort(descending=True)
    if not len(scores):
        return 1.0
    right = (verdicts[verdicts != IGNORED][order] == RIGHT).cumsum(0)
    f1 = 2 * right / (torch.arange(1, len(scores) + 1) + num_objects)
    # A threshold cannot part detections of equal score.
    f1[:-1][scores[1:] == scores[:-1]] = -1
    return float(scores[f1.argmax()])
