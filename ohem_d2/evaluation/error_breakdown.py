"""
What is wrong with detections, in five kinds of errors.

The kinds are those of Hoiem et al., Diagnosing Error in Object Detectors (ECCV 2012), refined by
TIDE (Bolya et al., ECCV 2020, arXiv:2008.08115), with TIDE's IoU thresholds. Differences:
    Errors are counted above a score. Hoiem et al. take as many detections as there are objects, and
        TIDE measures how much AP an error costs.
    "background" includes TIDE's "both": a badly localized box on an object of another class.
    "missed" are all objects that are not found. TIDE leaves out those with a detection that is
        badly localized or of another class.
    A detection with several faults counts as the first of: duplicate, other class, badly localized.

Shapes: N detections and G objects of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

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
    "Ranking",
    "count_errors",
    "find_best_threshold",
    "find_threshold_of_precision",
    "judge_detections",
    "rank_detections",
]

# From the first overlap on, a detection is on an object; below the second, it is unrelated to the
# object. TIDE's t_f and t_b, which are IoUs.
FG_THRESH, BG_THRESH = 0.5, 0.1

WRONG = ("background", "localization", "class", "duplicate")
VERDICTS = ("right", *WRONG, "ignored")
RIGHT, BACKGROUND, LOCALIZATION, CLASS, DUPLICATE, IGNORED = range(len(VERDICTS))


class Judgement(NamedTuple):
    """
    The detections of one image, judged independently of a score threshold: a detection takes an
    object from those with lower scores only.
    """

    scores: Tensor  # (N,)
    verdicts: Tensor  # (N,) of int64, an index into VERDICTS
    # (G,) score of the detection that finds the object, -inf if there is none
    found_scores: Tensor


class ErrorCounts(NamedTuple):
    """
    Counts over the detections above a score.
    """

    right: int  # right detections, and so objects found
    missed: int  # objects not found
    wrong: dict[str, int]  # wrong detections, by the kinds in WRONG

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
    detections: Instances, objects: Instances, ignored: Boxes, overlap: Optional[Tensor] = None
) -> Judgement:
    """
    Judge detections by decreasing score, as COCO's evaluation does. A detection is the first of:
        right, if its overlap with an object of its class that is not taken yet is at least
            FG_THRESH. It takes the one with the largest.
        ignored, if at least FG_THRESH of its area lies in an ignored box.
        a duplicate, if it has that overlap with an object of its class that is taken.
        of another class, if it has that overlap with an object of another class.
        badly localized, if its overlap with an object of its class is at least BG_THRESH.
        on background.

    Args:
        detections (Instances): of one image, with "pred_boxes", "scores" and "pred_classes".
        objects (Instances): of the image, with "gt_boxes" and "gt_classes".
        ignored (Boxes): crowds and difficult objects. Unlike in COCO's evaluation, their class does
            not matter: too little is known of them to call a detection of another class an error.
        overlap (Tensor): (N, G) from 0 to 1, such as :func:`mask_iou`. None: the IoU of the boxes.
    """
    if overlap is None:
        overlap = pairwise_iou(detections.pred_boxes, objects.gt_boxes)
    is_of_class = detections.pred_classes[:, None] == objects.gt_classes
    found_by = _match(overlap * is_of_class, detections.scores, FG_THRESH)
    found = found_by >= 0

    best, best_of_others = _largest(overlap * is_of_class), _largest(overlap * ~is_of_class)
    verdicts = torch.full((len(detections),), BACKGROUND)
    # From the last of the list above to the first, which takes precedence.
    verdicts[best >= BG_THRESH] = LOCALIZATION
    verdicts[best_of_others >= FG_THRESH] = CLASS
    verdicts[best >= FG_THRESH] = DUPLICATE
    verdicts[_largest(pairwise_ioa(ignored, detections.pred_boxes).T) >= FG_THRESH] = IGNORED
    verdicts[found_by[found]] = RIGHT

    found_scores = torch.full((len(objects),), -torch.inf)
    found_scores[found] = detections.scores[found_by[found]]
    return Judgement(detections.scores, verdicts, found_scores)


def _match(overlap: Tensor, scores: Tensor, thresh: float) -> Tensor:
    """
    Args:
        overlap (Tensor): (N, G), 0 where the classes differ.

    Returns:
        Tensor: (G,) of int64, the detection that takes each object, -1 for none.
    """
    is_near = _largest(overlap) >= thresh  # skip the rest, which is most
    found_by = torch.full((overlap.shape[1],), -1)
    for i in scores.argsort(descending=True, stable=True).tolist():
        if is_near[i]:
            free = overlap[i] * (found_by < 0)
            if free.max() >= thresh:
                found_by[free.argmax()] = i
    return found_by


def _largest(values: Tensor) -> Tensor:
    """
    Returns:
        Tensor: the largest value of each row, 0 without columns.
    """
    return torch.cat([values.new_zeros(len(values), 1), values], dim=1).amax(dim=1)


def count_errors(judgements: Sequence[Judgement], score_thresh: float) -> ErrorCounts:
    """
    Args:
        judgements: of some images.
        score_thresh (float): detections with lower scores do not count.
    """
    counts = torch.zeros(len(VERDICTS), dtype=torch.int64)
    num_objects = 0
    for x in judgements:
        counts += x.verdicts[x.scores >= score_thresh].bincount(minlength=len(VERDICTS))
        num_objects += len(x.found_scores)
    by_verdict = dict(zip(VERDICTS, counts.tolist(), strict=True))
    right = by_verdict["right"]
    return ErrorCounts(right, num_objects - right, {x: by_verdict[x] for x in WRONG})


class Ranking(NamedTuple):
    """
    The detections of some images by decreasing score: T thresholds, each a score, and what has at
    least that score.
    """

    thresholds: Tensor  # (T,) decreasing
    right: Tensor  # (T,) of int64, right detections
    counts: Tensor  # (T,) of int64, all detections but ignored ones
    num_objects: int

    @property
    def precision(self) -> Tensor:
        return self.right / self.counts

    @property
    def recall(self) -> Tensor:
        return self.right / self.num_objects  # NaN without objects

    @property
    def f1(self) -> Tensor:
        return 2 * self.right / (self.counts + self.num_objects)


def rank_detections(judgements: Sequence[Judgement]) -> Ranking:
    scores = torch.cat([x.scores for x in judgements])
    verdicts = torch.cat([x.verdicts for x in judgements])
    num_objects = sum(len(x.found_scores) for x in judgements)
    scores, order = scores[verdicts != IGNORED].sort(descending=True)
    right = (verdicts[verdicts != IGNORED][order] == RIGHT).cumsum(0)
    counts = torch.arange(1, len(scores) + 1)
    # A threshold cannot separate equal scores.
    is_last = torch.ones(len(scores), dtype=torch.bool)
    is_last[:-1] = scores[1:] != scores[:-1]
    return Ranking(scores[is_last], right[is_last], counts[is_last], num_objects)


def find_best_threshold(ranking: Ranking) -> float:
    """
    Returns:
        float: the score threshold that maximizes F1, the highest if there are several. 1 if no
        detection counts.
    """
    if not len(ranking.thresholds):
        return 1.0
    return float(ranking.thresholds[ranking.f1.argmax()])


def find_threshold_of_precision(ranking: Ranking, precision: float) -> Optional[float]:
    """
    Returns:
        float: the lowest score threshold with at least this precision. None if none has it.
    """
    thresholds = ranking.thresholds[ranking.precision >= precision]
    return float(thresholds[-1]) if len(thresholds) else None
