"""
A few training steps on real photographs, which may lie beside the checkout.
"""

import copy
import itertools
from pathlib import Path

import cv2
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
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from ohem_d2.data import IgnoreRegionsMapper, build_train_loader
from ohem_d2.data.proposal_file import make_proposals, write_proposals
from ohem_d2.data.selective_search import selective_search
from ohem_d2.engine.input_checks import check_inputs

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason="needs photographs in ../shared/data"),
]

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
        "demo/faster_rcnn_R_18_ohem.yaml",
        *("MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 0.005, "MODEL.OHEM.WARMUP_ITERS", 0),
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
        loader = build_train_loader(cfg)
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


def test_fast_rcnn_of_the_paper(tmp_path):
    """
    VGG16 on selective search's boxes, at half the paper's scale and with narrow fc layers.
    """
    cfg = load_config(
        "PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml",
        *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_BOX_HEAD.FC_DIMS", [32, 32]),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 6, "INPUT.MIN_SIZE_TRAIN", (300,)),
        *("DATASETS.PROPOSAL_FILES_TRAIN", (str(tmp_path / "proposals.pkl"),)),
        *("DATASETS.PROPOSAL_FILES_TEST", (), "DATALOADER.NUM_WORKERS", 0),
    )
    records = DatasetCatalog.get(NAMES[0])[:2]
    DatasetCatalog.register("photographs_two_cards", lambda: copy.deepcopy(records))
    MetadataCatalog.get("photographs_two_cards").thing_classes = MetadataCatalog.get(
        NAMES[0]
    ).thing_classes
    try:
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("photographs_two_cards",), ()
        write_proposals(
            tmp_path / "proposals.pkl",
            make_proposals(
                [x["image_id"] for x in records],
                [selective_search(cv2.imread(x["file_name"])) for x in records],
                [(x["height"], x["width"]) for x in records],
            ),
        )
        check_inputs(cfg)
        losses, scalars = train(cfg, 2)
    finally:
        DatasetCatalog.remove("photographs_two_cards")
        MetadataCatalog.pop("photographs_two_cards")
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    kept = scalars["roi_head/num_fg_samples"] + scalars["roi_head/num_bg_samples"]
    assert kept == 64 and scalars["roi_head/num_fg_samples"] > 0
    assert scalars["ohem/num_rois"] > 500


def test_crowds_are_ignored():
    cfg = config(NAMES[2])
    mapper = IgnoreRegionsMapper(cfg, is_train=True)
    model = build_model(cfg).train()
    num_crowds = 0
    for record in DatasetCatalog.get(NAMES[2]):
        crowds = [x for x in record["annotations"] if x["iscrowd"]]
        targets = mapper(record)["instances"]
        assert len(targets.ignore_boxes) == len(crowds)
        assert len(targets) == len(record["annotations"]) - len(crowds)
        num_crowds += len(crowds)
        proposals = Instances(
            targets.image_size,
            proposal_boxes=targets.ignore_boxes,
            objectness_logits=torch.zeros(len(crowds)),
        )
        (rois,) = model.roi_heads.label_proposals([proposals], [targets])
        # The ground truth alone is left.
        assert torch.equal(rois.proposal_boxes.tensor, targets.gt_boxes.tensor)
    assert num_crowds == 5
