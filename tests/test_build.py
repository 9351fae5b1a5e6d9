import itertools

import numpy as np
import pytest
import torch
from conftest import VOC_CLASSES, VOC_IMAGES, build_heads, heads_config
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ohem_d2.data import build_test_loader, build_train_loader, get_annotated_dicts
from ohem_d2.data.proposal_file import make_proposals, write_proposals


def make_cfg(dataset, practice, **options):
    cfg = heads_config(DATASETS__DIFFICULT=practice, **options)
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (80,)  # as they are
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(VOC_CLASSES)
    return cfg


def load(cfg):
    batches = itertools.islice(build_train_loader(cfg), 12)  # all images, several times
    return {x["image_id"]: x["instances"] for batch in batches for x in batch}


@pytest.mark.parametrize("practice", ["train", "drop", "ignore"])
def test_what_training_is_given(voc, practice):
    expected = {
        "both": (2, 0) if practice == "train" else (1, 0) if practice == "drop" else (1, 1),
        "easy_alone": (1, 0),
        "without_the_flag": (1, 0),
    }
    if practice == "train":  # else there is nothing to train on
        expected["difficult_alone"] = (1, 0)
    targets = load(make_cfg(voc, practice))
    assert {k: (len(x), len(x.ignore_boxes)) for k, x in targets.items()} == expected
    if practice == "ignore":
        assert targets["both"].ignore_boxes.tensor.tolist() == [[60, 40, 90, 70]]
        assert targets["both"].gt_boxes.tensor.tolist() == [[10, 10, 40, 30]]


def test_images_without_objects_where_they_are_trained_on(voc):
    cfg = make_cfg(voc, "ignore", DATALOADER__FILTER_EMPTY_ANNOTATIONS=False)
    targets = load(cfg)["difficult_alone"]
    assert len(targets) == 0 and len(targets.ignore_boxes) == 1
    # Nothing is left out for measuring.
    assert len(get_annotated_dicts(make_cfg(voc, "drop"), [voc], is_train=False)) == 4


@pytest.mark.parametrize("heads", ["OHEMROIHeads", "HeuristicROIHeads"])
@pytest.mark.parametrize(
    "practice, label", [("train", "cow"), ("drop", "background"), ("ignore", None)]
)
def test_what_a_roi_on_a_difficult_object_is(voc, heads, practice, label):
    cfg = make_cfg(voc, practice, MODEL__ROI_HEADS__NAME=heads)
    roi_heads = build_heads(cfg)
    targets = load(cfg)["both"]
    on_it, on_nothing = [60.0, 42.0, 90.0, 70.0], [0.0, 60.0, 20.0, 80.0]
    proposals = Instances(
        targets.image_size,
        proposal_boxes=Boxes([on_it, on_nothing]),
        objectness_logits=torch.zeros(2),
    )
    with EventStorage():
        if heads == "OHEMROIHeads":
            (rois,) = roi_heads.label_proposals([proposals], [targets])
        else:
            (rois,) = roi_heads.label_and_sample_proposals([proposals], [targets])
    names = [*VOC_CLASSES, "background"]
    labels = {
        tuple(box): names[c]
        for box, c in zip(rois.proposal_boxes.tensor.tolist(), rois.gt_classes, strict=True)
    }
    assert labels[tuple(on_nothing)] == "background"
    assert labels.get(tuple(on_it)) == label


@pytest.mark.parametrize("augmented", [False, True])
def test_images_to_test_on_are_resized_once(voc, tmp_path, augmented):
    """
    By the loader, or by test-time augmentation; their proposals with them.
    """
    box = np.float32([[10, 20, 40, 60]])
    proposals = make_proposals(VOC_IMAGES, [box] * len(VOC_IMAGES), [(80, 100)] * len(VOC_IMAGES))
    write_proposals(tmp_path / "proposals.pkl", proposals)
    cfg = make_cfg(voc, "train", TEST__AUG__ENABLED=augmented, MODEL__LOAD_PROPOSALS=True)
    cfg.INPUT.MIN_SIZE_TEST = 160  # twice their size
    cfg.DATASETS.TEST = (voc,)
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(tmp_path / "proposals.pkl"),)
    scale = 1 if augmented else 2
    for (inputs,) in build_test_loader(cfg, voc):
        assert inputs["image"].shape == (3, 80 * scale, 100 * scale)
        assert (inputs["height"], inputs["width"]) == (80, 100)
        loaded = inputs["proposals"].proposal_boxes.tensor
        np.testing.assert_allclose(loaded, box * scale, atol=1e-4)
