import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from conftest import heads_config
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from ohem_d2.data import IgnoreRegionsMapper

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def file_name(tmp_path):
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8))
    return path


def annotation(box, **fields):
    # detectron2 truncates boxes of integers.
    return {
        "bbox": [float(x) for x in box],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 2,
        **fields,
    }


def record(file_name, *annotations):
    return {
        "file_name": file_name,
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 1,
        "annotations": list(annotations),
    }


def test_by_hand(file_name):
    mapper = IgnoreRegionsMapper(
        heads_config(),
        augmentations=[T.Resize((120, 160)), T.RandomFlip(prob=1.0)],
    )
    inputs = record(
        file_name,
        annotation([10, 10, 30, 20], iscrowd=1),
        annotation([0, 0, 20, 30], iscrowd=0),
        annotation([60, 50, 40, 40], iscrowd=1),  # beyond the border
    )
    instances = mapper(inputs)["instances"]
    # Twice as large and flipped: x becomes 160 - x.
    assert instances.gt_boxes.tensor.tolist() == [[120, 0, 160, 60]]
    assert instances.gt_classes.tolist() == [2]
    assert instances.ignore_boxes.tensor.tolist() == [[80, 20, 140, 60], [0, 100, 40, 120]]
    assert len(inputs["annotations"]) == 3  # not modified


def test_only_crowds(file_name):
    mapper = IgnoreRegionsMapper(heads_config(), augmentations=[])
    instances = mapper(record(file_name, annotation([1, 2, 3, 4], iscrowd=1)))["instances"]
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.ignore_boxes.tensor.tolist() == [[1, 2, 4, 6]]


def test_no_annotations(file_name):
    mapper = IgnoreRegionsMapper(heads_config(), augmentations=[])
    instances = mapper(record(file_name))["instances"]
    assert len(instances) == len(instances.ignore_boxes) == 0


def test_inference_is_detectron2s(file_name):
    outputs = IgnoreRegionsMapper(heads_config(), is_train=False, augmentations=[])(
        record(file_name, annotation([1, 2, 3, 4], iscrowd=1))
    )
    assert "instances" not in outputs and outputs["image"].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_objects_equal_detectron2s(file_name, mask_format):
    """
    With masks and keypoints. As in COCO, a crowd has another kind of mask and no keypoints.
    """
    cfg = heads_config(
        MODEL__MASK_ON=True,
        MODEL__KEYPOINT_ON=True,
        INPUT__MASK_FORMAT=mask_format,
    )
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.INPUT.MIN_SIZE_TRAIN = (40, 50, 90)
    polygon = [[5.0, 5.0, 45.0, 8.0, 35.0, 50.0]]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[20:40, 30:60] = 1
    keypoints = [10.0, 10.0, 2.0] * 17
    annotations = [
        annotation([30, 20, 30, 20], iscrowd=1, segmentation=pycocotools.mask.encode(mask)),
        annotation([5, 5, 40, 45], segmentation=polygon, keypoints=keypoints, iscrowd=0),
    ]
    outputs = []
    for mapper in (IgnoreRegionsMapper(cfg, True), DatasetMapper(cfg, True)):
        np.random.seed(0)
        outputs.append(mapper(record(file_name, *annotations)))
    found, expected = outputs
    assert torch.equal(found["image"], expected["image"])
    found, expected = found["instances"], expected["instances"]
    assert len(found) == len(expected) == 1
    assert set(found.get_fields()) == set(expected.get_fields())
    assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert torch.equal(found.gt_keypoints.tensor, expected.gt_keypoints.tensor)
    masks = [
        x.gt_masks.tensor if mask_format == "bitmask" else x.gt_masks for x in (found, expected)
    ]
    if mask_format == "bitmask":
        assert torch.equal(*masks)
    else:
        assert [np.allclose(a, b) for a, b in zip(masks[0], masks[1], strict=True)] == [True]
    assert len(found.ignore_boxes) == 1
    # The image may be flipped, which leaves sizes alone.
    height, width = found.image_size
    expected_size = torch.tensor([30 * width / WIDTH, 20 * height / HEIGHT])
    x0, y0, x1, y1 = found.ignore_boxes.tensor[0]
    torch.testing.assert_close(torch.stack([x1 - x0, y1 - y0]), expected_size)
