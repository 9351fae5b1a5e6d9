"""
Overlaps by masks and keypoints: worked by hand, in plain NumPy, and as pycocotools has them.
"""

import contextlib
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ohem_d2.evaluation.overlaps import keypoint_similarity, mask_iou

seeds = st.integers(0, 2**32 - 1)


def encode(mask):
    return mask_utils.encode(np.asfortranarray(mask, np.uint8))


@given(seeds, st.integers(0, 3), st.integers(0, 3))
def test_masks(seed, num_detected, num_objects):
    random = np.random.default_rng(seed)
    detected, objects = (random.random((n, 6, 5)) < 0.5 for n in (num_detected, num_objects))
    iou = mask_iou([encode(x) for x in detected], [encode(x) for x in objects])
    assert iou.shape == (num_detected, num_objects) and iou.dtype == torch.float32
    for i, x in enumerate(detected):
        for j, y in enumerate(objects):
            union = (x | y).sum()
            assert iou[i, j] == pytest.approx((x & y).sum() / union if union else 0)


def test_keypoints_by_hand():
    # An object of 50 pixels, sigma .1: a distance d counts exp(-d^2 / (2 * 50 * .2^2)), that is,
    # exp(-d^2 / 4).
    area, sigma = torch.tensor([50.0]), torch.tensor([0.1, 0.1, 0.1])
    objects = torch.tensor([[[10.0, 10.0, 2.0], [20.0, 20.0, 1.0], [0.0, 0.0, 0.0]]])
    # The first is 2 away, the second in its place, and the third is not labeled.
    detected = torch.tensor([[[12.0, 10.0, 0.5], [20.0, 20.0, 0.1], [90.0, 90.0, 0.9]]])
    expected = (np.exp(-1) + 1) / 2
    assert keypoint_similarity(detected, objects, area, sigma).tolist() == [
        [pytest.approx(expected)]
    ]
    assert keypoint_similarity(detected[:0], objects, area, sigma).shape == (0, 1)
    assert keypoint_similarity(detected, objects[:0], area[:0], sigma).shape == (1, 0)


@given(seeds, st.integers(1, 3), st.integers(1, 3))
def test_keypoints_as_pycocotools(seed, num_detected, num_objects):
    random = np.random.default_rng(seed)
    sigmas = random.uniform(0.02, 0.2, 4)
    areas = random.uniform(20, 400, num_objects)
    objects, detected = (
        np.concatenate([random.uniform(0, 30, (n, 4, 2)), random.integers(0, 3, (n, 4, 1))], axis=2)
        for n in (num_objects, num_detected)
    )
    objects[:, 0, 2] = 2  # one is labeled at least
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": 30, "width": 30}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                **{"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": area},
                **{"bbox": [0, 0, 30, 30], "keypoints": x.flatten().tolist(), "num_keypoints": 4},
            }
            for i, (x, area) in enumerate(zip(objects, areas, strict=True), start=1)
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "score": 1 - i / 10, "keypoints": x.flatten().tolist()}
        for i, x in enumerate(detected)
    ]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation._prepare()
    expected = evaluation.computeOks(1, 1)
    similarity = keypoint_similarity(
        *(torch.tensor(x, dtype=torch.float32) for x in (detected, objects, areas, sigmas))
    )
    assert similarity.tolist() == [pytest.approx(x, abs=1e-5) for x in expected]
