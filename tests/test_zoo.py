"""
The sweep over the model zoo, on one config of each family. `make zoo` runs all.
"""

import logging
import sys

import pytest
import zoo

pytestmark = pytest.mark.slow


def run(monkeypatch, *configs):
    lines = []
    monkeypatch.setattr(sys, "argv", ["zoo.py", *configs])
    try:
        zoo.main(lines.append)
        code = 0
    except SystemExit as e:
        code = e.code
    finally:
        logging.disable(logging.NOTSET)
    return "\n".join(lines), code


def test_list_of_configs():
    configs = zoo.list_configs()
    assert len(configs) > 80
    assert {
        "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
        "Cityscapes/mask_rcnn_R_50_FPN.yaml",
        "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml",
    } <= set(configs)
    assert not any("common/" in x or "Base-" in x for x in configs)


@pytest.mark.parametrize(
    "config",
    [
        "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",  # on precomputed proposals
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
        "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    ],
)
def test_a_step_and_an_inference_pass(config):
    result = zoo.try_config(config)
    assert (result.step, result.reason) == ("done", "")
    assert float(result.seen) > float(result.kept) > 0
    assert float(result.kept) <= zoo.BATCH_SIZE_PER_IMAGE


def test_models_without_rois_are_skipped(monkeypatch):
    table, code = run(monkeypatch, "COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert "RetinaNet has no RoI heads, so there is nothing to mine." in table
    assert "0 done, 1 skipped, 0 failed." in table and code == 0


@pytest.mark.parametrize(
    "error, step, code",
    [
        (NotImplementedError("Deformable Conv is not supported on CPUs!"), "skipped", 0),
        (RuntimeError("The sizes of tensors must match"), "FAILED", 1),
    ],
)
def test_a_failure_differs_from_a_missing_operator(monkeypatch, error, step, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(zoo, "train_and_infer", fail)
    config = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    table, found = run(monkeypatch, config)
    (line,) = (x for x in table.splitlines() if config in x)
    assert step in line and str(error) in line
    assert found == code
