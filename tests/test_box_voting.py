import numpy as np
import pytest
import torch
from conftest import devices
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import slow_box_voting

from ohem_d2.modeling.test_time import box_voting as module
from ohem_d2.modeling.test_time.box_voting import SCORING_METHODS, box_voting

# Boxes on a coarse grid, so that many overlap, some have no area and IoUs are exact; and scores of
# which some are equal, zero or negative.
coordinates = st.integers(0, 5)
boxes_of_an_image = st.lists(
    st.tuples(
        coordinates,
        coordinates,
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(-2, 8),
        st.integers(0, 2),
    ),
    max_size=25,
)


def tensors(rows, device="cpu"):
    values = torch.tensor(rows, dtype=torch.float32, device=device).reshape(-1, 6)
    boxes = torch.cat([values[:, :2], values[:, :2] + values[:, 2:4]], dim=1) * 10
    return boxes, values[:, 4] / 8, values[:, 5].long()


@devices
@given(
    rows=boxes_of_an_image,
    nms_thresh=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    iou_thresh=st.sampled_from([0.1, 0.5, 1.0]),
    method=st.sampled_from(SCORING_METHODS),
    beta=st.sampled_from([0.5, 1.0, 3.0]),
    max_pairs=st.sampled_from([1, 30, 10**6]),
)
@settings(max_examples=400)
def test_is_the_slow_one(device, rows, nms_thresh, iou_thresh, method, beta, max_pairs):
    boxes, scores, classes = tensors(rows, device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PAIRS", max_pairs)
        voted = box_voting(boxes, scores, classes, nms_thresh, iou_thresh, method, beta)
    expected = slow_box_voting(
        *(x.cpu().double().numpy() for x in (boxes, scores, classes)),
        nms_thresh,
        iou_thresh,
        method,
        beta,
    )
    new_boxes, new_scores, keep = (x.cpu() for x in voted)
    assert set(keep.tolist()) == expected.keys() and len(keep) == len(expected)
    for box, score, i in zip(new_boxes, new_scores, keep.tolist(), strict=True):
        torch.testing.assert_close(box.numpy(), np.float32(expected[i][0]), rtol=0, atol=1e-4)
        assert score.item() == pytest.approx(expected[i][1], abs=1e-6)
    assert (new_scores[:-1] >= new_scores[1:]).all()
    assert voted[0].dtype == voted[1].dtype == torch.float32


def test_by_hand():
    # Of one class, with scores .8, .4 and .2: the second has an IoU of 80 / 120 = 2 / 3 with the
    # first, the third of 50 / 150 = 1 / 3. A fourth, in the place of the first, of another class.
    boxes = torch.tensor([[0, 0, 10, 10], [2, 0, 12, 10], [5, 0, 15, 10], [0, 0, 10, 10.0]])
    scores, classes = torch.tensor([0.8, 0.4, 0.2, 0.9]), torch.tensor([1, 1, 1, 0])
    voted, new_scores, keep = box_voting(boxes, scores, classes, nms_thresh=0.3)
    assert keep.tolist() == [3, 0]
    # x is (.8 * 0 + .4 * 2) / 1.2 = 2 / 3.
    torch.testing.assert_close(voted, torch.tensor([[0, 0, 10, 10], [2 / 3, 0, 32 / 3, 10]]))
    assert new_scores.tolist() == scores[keep].tolist()

    # A third of the union is enough at .3: x is (.8 * 0 + .4 * 2 + .2 * 5) / 1.4 = 9 / 7.
    voted, _, _ = box_voting(boxes, scores, classes, nms_thresh=0.3, iou_thresh=0.3)
    assert voted[1].tolist() == pytest.approx([9 / 7, 0, 79 / 7, 10])


def test_classes_do_not_compete_at_negative_coordinates():
    boxes = torch.tensor([[-11.0, -11.0, -1.0, -1.0]] * 3)
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    _, _, keep = box_voting(boxes, scores, classes, nms_thresh=0.3)
    assert keep.tolist() == [0, 1]


def test_the_score_that_was_changed_ranks():
    # Two places: one box of .8 beside three of 0 (they vote for it with nothing), and one of .6.
    # Their mean scores are .2 and .6.
    boxes = torch.tensor([[0, 0, 10, 10.0]] * 4 + [[50, 50, 60, 60.0]])
    scores, classes = torch.tensor([0.8, 0, 0, 0, 0.6]), torch.zeros(5, dtype=torch.long)
    _, new_scores, keep = box_voting(boxes, scores, classes, 0.5, scoring_method="AVG")
    assert keep.tolist() == [4, 0] and new_scores.tolist() == pytest.approx([0.6, 0.2])


@pytest.mark.parametrize("method", SCORING_METHODS)
def test_topk_are_those_of_the_highest_score(method):
    boxes, scores, classes = tensors([(i, 0, 1, 1, i, 0) for i in range(6)])
    _, _, keep = box_voting(boxes, scores, classes, 0.5, scoring_method=method, topk=2)
    assert keep.tolist() == [5, 4]
    assert [len(x) for x in box_voting(boxes, scores, classes, 0.5, topk=0)] == [0, 0, 0]


@devices
@pytest.mark.parametrize("num_classes", [1, 20])
def test_twenty_thousand_boxes(device, num_classes):
    """
    As many as multiple scales give, in clusters as on objects, against NumPy one row at a time.
    """
    generator = torch.Generator().manual_seed(0)
    centers = 500 * torch.rand(400, 2, generator=generator)
    centers = centers[torch.randint(400, (20_000,), generator=generator)]
    centers = centers + 8 * torch.randn(20_000, 2, generator=generator)
    half = 30 * torch.exp(0.2 * torch.randn(20_000, 2, generator=generator))
    boxes = torch.cat([centers - half, centers + half], dim=1)
    scores = torch.rand(20_000, generator=generator)
    classes = torch.randint(num_classes, (20_000,), generator=generator)

    voted = box_voting(boxes.to(device), scores.to(device), classes.to(device), nms_thresh=0.3)
    new_boxes, new_scores, keep = (x.cpu() for x in voted)
    assert torch.equal(new_scores, scores[keep])
    b, s, c = boxes.numpy().astype(float), scores.numpy().astype(float), classes.numpy()
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    for i, new_box in list(zip(keep.tolist(), new_boxes.numpy(), strict=True))[::7]:
        sides = np.minimum(b[i, 2:], b[:, 2:]) - np.maximum(b[i, :2], b[:, :2])
        shared = np.maximum(sides, 0).prod(axis=1)
        overlaps = shared / (area[i] + area - shared)
        voters = (overlaps >= 0.5) & (c == c[i])
        if (abs(overlaps - 0.5) < 1e-6).any():
            continue  # either is right, in float32
        expected = (s[voters, None] * b[voters]).sum(0) / s[voters].sum()
        np.testing.assert_allclose(new_box, expected, atol=1e-3)


def test_memory_does_not_grow_with_the_pairs():
    """
    No tensor has more entries than MAX_PAIRS, or than some for each box.
    """
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    n = 5000
    boxes, scores, classes = tensors([(i % 50, i // 50, 1, 1, i % 7, 0) for i in range(n)])
    with Sizes():
        voted, _, _ = box_voting(boxes, scores, classes, nms_thresh=0.5)
    assert len(voted) == n  # nothing was removed: there are 25 million pairs
    assert n < largest <= 2 * max(module.MAX_PAIRS, 5 * n)  # 2: the coordinates of overlaps


def test_autocast_does_not_round_boxes():
    # Between two pixels of bfloat16: it has 8 bits.
    boxes = torch.tensor([[1001, 1001, 1301, 1301], [1002, 1002, 1302, 1302.0]])
    scores, classes = torch.tensor([0.5, 0.5]), torch.zeros(2, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        voted, _, _ = box_voting(boxes, scores, classes, nms_thresh=0.5)
    assert voted.tolist() == [[1001.5, 1001.5, 1301.5, 1301.5]]
