import numpy as np
import pytest
import torch
from conftest import NUM_CLASSES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import select_slowly

from ohem_d2.modeling.roi_heads import nms_by_loss, take_hardest

BG = NUM_CLASSES


def select(boxes, losses, labels, batch_size, nms_thresh, per_class, positive_fraction):
    labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    ranked = nms_by_loss(
        torch.as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 4)),
        torch.as_tensor(np.asarray(losses, dtype=np.float32)),
        labels,
        nms_thresh,
        per_class,
    )
    return take_hardest(ranked, labels, batch_size, BG, positive_fraction).tolist()


@st.composite
def rois(draw):
    """
    Up to 30 boxes in a small image, so that they overlap, some of them without an area. Corners
    are multiples of a quarter of a pixel, with which IoU is exact. Few values of the loss, so that
    there are ties.
    """
    n = draw(st.integers(0, 30))
    corners = draw(hnp.arrays(np.int64, (n, 2, 2), elements=st.integers(0, 40))) / 4
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    loss = st.one_of(
        st.sampled_from([0.0, 0.5, 1.0, float("nan"), float("inf"), float("-inf")]),
        st.floats(0, 100, width=32),
    )
    losses = draw(hnp.arrays(np.float32, n, elements=loss))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, BG)))
    return boxes, losses, labels


@given(
    rois(),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
)
def test_same_as_the_paper_in_numpy(rois, batch_size, nms_thresh, per_class, positive_fraction):
    arguments = (*rois, batch_size, nms_thresh, per_class, positive_fraction)
    assert select(*arguments) == select_slowly(*arguments)


# Three boxes in a row, each 10 wide and shifted by 1: IoU is 9/11 = .82 between neighbors, and
# 8/12 = .67 between the first and the last.
ROW = [[0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10]]


@pytest.mark.parametrize(
    "losses, nms_thresh, expected",
    [
        # The middle one is removed by the first, and does not remove the last.
        ([3.0, 2.0, 1.0], 0.7, [0, 2]),
        ([1.0, 2.0, 3.0], 0.7, [2, 0]),
        # The hardest is in the middle, and removes both.
        ([1.0, 3.0, 2.0], 0.7, [1]),
        ([3.0, 2.0, 1.0], 0.6, [0]),
        ([3.0, 2.0, 1.0], 0.9, [0, 1, 2]),
        ([1.0, 3.0, 2.0], 1.0, [1, 2, 0]),
    ],
)
def test_nms_removes_the_lower_loss(losses, nms_thresh, expected):
    assert select(ROW, losses, [BG] * 3, 3, nms_thresh, False, None) == expected


def test_nms_per_class_keeps_other_labels():
    # By 0 is removed 2, which has the same label; 1 is another class.
    assert select([ROW[0]] * 3, [3.0, 2.0, 1.0], [0, 1, 0], 3, 0.7, True, None) == [0, 1]
    assert select([ROW[0]] * 3, [3.0, 2.0, 1.0], [0, 1, 0], 3, 0.7, False, None) == [0]


def test_nms_per_class_is_exact_with_many_classes():
    # Two boxes of 2 x 2 pixels, shifted by .375: IoU is 1.625 / 2.375 = .684. With the label 1200
    # torchvision shifts them by 1200 x 1301 pixels, where float32 counts in eighths: rounded to
    # .25 apart, the IoU would be .78.
    small = [[1000.1875, 0, 1002.1875, 2], [1000.5625, 0, 1002.5625, 2], [0, 0, 1300, 1]]
    labels = torch.tensor([1200, 1200, 0])
    losses = torch.tensor([3.0, 2.0, 1.0])
    assert nms_by_loss(torch.tensor(small), losses, labels, 0.7, True).tolist() == [0, 1, 2]


def test_nms_per_class_at_negative_coordinates():
    # torchvision moves each class by the largest coordinate plus 1, here by nothing.
    boxes = torch.tensor([[-11.0, -11.0, -1.0, -1.0]] * 3)
    losses, labels = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0, 1, 0])
    assert nms_by_loss(boxes, losses, labels, 0.5, nms_per_class=True).tolist() == [0, 1]


def test_ties_are_broken_by_index():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(200)]
    assert select(boxes, [1.0] * 200, [BG] * 200, 64, 0.7, False, None) == list(range(64))


def test_losses_that_are_not_finite_surface():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)]
    losses = [5.0, float("nan"), float("inf"), float("-inf")]
    assert select(boxes, losses, [BG] * 4, 3, 0.7, False, None) == [1, 2, 3]
    # Even where each lies on the next: the first of them is left.
    assert select(boxes[:1] * 4, losses, [BG] * 4, 3, 0.7, False, None) == [1]


def test_no_rois():
    assert select([], [], [], 8, 0.7, False, None) == []
    assert select([], [], [], 8, 0.7, True, 0.25) == []


def test_fewer_survivors_than_the_batch_are_not_refilled():
    boxes = [ROW[0]] * 5 + [[50, 50, 60, 60]]
    assert select(boxes, [1.0, 5.0, 2.0, 3.0, 4.0, 0.5], [BG] * 6, 4, 0.7, False, None) == [1, 5]


def test_positive_fraction_mines_foreground_and_background_apart():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(8)]
    losses = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    labels = [0, 1, 2, 0, BG, BG, BG, BG]
    # Without a ratio the four hardest are all foreground; at 1:3 one is, and three are background.
    assert select(boxes, losses, labels, 4, 0.7, False, None) == [0, 1, 2, 3]
    assert select(boxes, losses, labels, 4, 0.7, False, 0.25) == [0, 4, 5, 6]
    # Not enough background: the batch is smaller, and the foreground stays within its share.
    assert select(boxes[:5], losses[:5], labels[:5], 4, 0.7, False, 0.25) == [0, 4]
    # Foreground is taken up to its share also where background is harder.
    assert select(boxes, losses[::-1], labels, 4, 0.7, False, 0.25) == [7, 6, 5, 3]
