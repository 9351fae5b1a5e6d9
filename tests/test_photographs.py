"""
A few training steps on real photographs, which may lie beside the checkout.
"""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_config
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="needs photographs in ../shared/data")

NAMES = ("photographs_cards", "photographs_bccd", "photographs_coco")


@pytest.fixture(scope="module", autouse=True)
def registered():
    cards = ("ace", "king", "queen", "jack", "ten", "nine")
    register_pascal_voc(NAMES[0], str(DATA / "cards"), "train", 2012, cards)
    cells = ("RBC", "WBC", "Platelets")
    register_pascal_voc(NAMES[1], str(DATA / "bccd"), "trainval", 2012, cells)
    coco = DATA / "coco604"
    register_coco_instances(
        NAMES[2], {}, str(coco / "instances_ci_ccby.json"), str(coco / "ci_ccby")
    )
    yield
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


def config(name):
    cfg = load_config(
        "demo/faster_rcnn_R_18_ohem.yaml", "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 0.005
    )
    cfg.DATASETS.TRAIN = (name,)
    DatasetCatalog.get(name)  # COCO's metadata is known once it is loaded
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(MetadataCatalog.get(name).thing_classes)
    return cfg


def train(cfg, steps, dataset=None):
    torch.manual_seed(0)
    np.random.seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    if dataset is None:
        loader = build_detection_train_loader(cfg)
    else:
        loader = build_detection_train_loader(
            dataset, mapper=DatasetMapper(cfg, is_train=True), total_batch_size=2, num_workers=0
        )
    with EventStorage() as storage:
        for batch in itertools.islice(loader, steps):
            losses = model(batch)
            total = sum(losses.values())
            assert total.isfinite(), losses
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            storage.step()
        return losses, {k: v for k, (v, _) in storage.latest().items()}


@pytest.mark.parametrize("name", NAMES)
def test_trains_on_the_hardest(name):
    _, scalars = train(config(name), 4)
    assert 0 < scalars["ohem/num_kept"] <= 64 < scalars["ohem/num_rois"]
    assert scalars["roi_head/num_fg_samples"] > 0
    assert scalars["ohem/num_kept"] == pytest.approx(
        scalars["roi_head/num_fg_samples"] + scalars["roi_head/num_bg_samples"]
    )


def test_boxes_of_a_pixel():
    # In each of two images, the annotation of one box has the same corner twice: a pixel, which
    # resizing makes smaller.
    images = ("BloodImage_00338", "BloodImage_00343")
    dataset = [x for x in DatasetCatalog.get(NAMES[1]) if x["image_id"] in images]
    boxes = np.array([a["bbox"] for x in dataset for a in x["annotations"]])
    assert len(dataset) == 2 and sorted((boxes[:, 2:] - boxes[:, :2]).max(axis=1))[:2] == [1, 1]
    train(config(NAMES[1]), 2, dataset)


def test_mask_head_on_photographs():
    cfg = config(NAMES[2])
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    dataset = [
        x
        for x in copy.deepcopy(DatasetCatalog.get(NAMES[2]))
        if x["annotations"] and all("segmentation" in a for a in x["annotations"])
    ]
    losses, _ = train(cfg, 3, dataset[:4])
    assert losses["loss_mask"] > 0
