import pickle

import torch
from conftest import devices
from detectron2.structures import Boxes, Instances

from ohem_d2.structures import TargetsWithIgnoreRegions


def make():
    return TargetsWithIgnoreRegions(
        (20, 30),
        Boxes([[0, 0, 5, 5]]),
        gt_boxes=Boxes([[1, 1, 4, 4], [2, 2, 8, 8]]),
        gt_classes=torch.tensor([3, 1]),
    )


@devices
def test_regions_go_to_the_device_with_the_objects(device):
    targets = make().to(torch.device(device))
    assert targets.ignore_boxes.device.type == device
    assert targets.gt_boxes.device.type == device
    assert targets.ignore_boxes.tensor.tolist() == [[0, 0, 5, 5]]
    assert targets.gt_classes.tolist() == [3, 1]
    assert targets.image_size == (20, 30)


def test_regions_are_not_objects():
    targets = make()
    assert len(targets) == 2
    assert set(targets.get_fields()) == {"gt_boxes", "gt_classes"}
    plain = Instances.cat([targets, targets])
    assert len(plain) == 4


def test_regions_stay_when_objects_are_selected():
    targets = make()[torch.tensor([False, False])]
    assert len(targets) == 0 and len(targets.ignore_boxes) == 1


def test_regions_reach_another_process():
    copy = pickle.loads(pickle.dumps(make()))
    assert copy.ignore_boxes.tensor.tolist() == [[0, 0, 5, 5]]
    assert copy.gt_classes.tolist() == [3, 1]
