import re

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import ROIHeads

from ohem_d2 import add_ohem_config
from ohem_d2.data.datasets.clutter import CLASS_NAMES, generate_clutter
from ohem_d2.data.datasets.voc import load_voc_instances
from ohem_d2.data.proposal_file import make_proposals, write_proposals
from ohem_d2.engine import InputError, check_inputs

NAMES = ("checks_voc", "checks_coco", "checks_lvis", "checks_plain")


@pytest.fixture
def cfg(tmp_path):
    folder = generate_clutter(str(tmp_path), 0, {"train": 2, "test": 1})
    records = load_voc_instances(folder, "train", CLASS_NAMES)
    for name in NAMES:
        DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get("checks_voc").set(
        evaluator_type="pascal_voc",
        dirname=str(folder),
        split="train",
        thing_classes=CLASS_NAMES,
    )
    MetadataCatalog.get("checks_coco").set(
        evaluator_type="coco",
        json_file=str(folder / "coco" / "instances_test.json"),
        image_root=str(folder / "JPEGImages"),
    )
    MetadataCatalog.get("checks_lvis").set(evaluator_type="lvis")
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "OHEMROIHeads"
    cfg.DATASETS.TRAIN = ("checks_voc", "checks_plain")
    cfg.DATASETS.TEST = ("checks_coco",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASS_NAMES)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    yield cfg
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_all_is_there(cfg, tmp_path):
    check_inputs(cfg)
    (tmp_path / "weights.pth").touch()
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    check_inputs(cfg)
    cfg.MODEL.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"  # is downloaded later
    check_inputs(cfg)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.ROI_HEADS.NAME", "OHEMRoIHeads", "OHEMRoIHeads, .* Did you mean OHEMROIHeads"),
        (
            "MODEL.ROI_HEADS.BG_LO",
            0.1,
            "BG_LO 0.1 requires .* OHEMROIHeads ignores it",
        ),
        ("DATASETS.DIFFICULT", "skip", "DIFFICULT is 'skip'. .* one of: train, drop, ignore"),
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("DATASETS.TRAIN", ("check_voc",), "check_voc, which is not registered. Did you mean"),
        (
            "DATASETS.TEST",
            ("zzz",),
            r"DATASETS.TEST names zzz, which is not registered. .*--import",
        ),
        ("DATASETS.TEST", ("checks_lvis",), "evaluated by 'lvis'"),
        ("MODEL.WEIGHTS", "missing.pth", "MODEL.WEIGHTS is missing.pth, which does not exist"),
        ("MODEL.LOAD_PROPOSALS", True, "PROPOSAL_FILES_TRAIN has 0 files for the 2 datasets"),
    ],
)
def test_what_is_not_there_is_named(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(InputError, match=message):
        check_inputs(cfg)


@pytest.mark.parametrize("num_classes", [3, 80])
@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_number_of_classes(cfg, num_classes, key):
    cfg.DATASETS[key] = ("checks_voc",)
    cfg.MODEL.WEIGHTS = "https://localhost/x.pth"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    with pytest.raises(
        InputError, match=f"NUM_CLASSES is {num_classes}, but checks_voc has 4 classes: triangle"
    ):
        check_inputs(cfg, eval_only=key == "TEST")
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"  # has no RoI heads
    check_inputs(cfg, eval_only=key == "TEST")


@pytest.mark.parametrize("switch, field", [("MASK_ON", "segment"), ("KEYPOINT_ON", "keypoints")])
def test_masks_and_keypoints_that_are_missing(cfg, switch, field):
    cfg.MODEL[switch] = True
    with pytest.raises(
        InputError, match=f"{switch} is True, but image .* has an object without {field}"
    ):
        check_inputs(cfg)


@pytest.mark.parametrize("practice", ["ignore", "drop"])
def test_all_objects_are_difficult(cfg, tmp_path, practice):
    cfg.DATASETS.TRAIN = ("checks_voc",)
    cfg.DATASETS.DIFFICULT = practice
    check_inputs(cfg)
    for file in (tmp_path / "clutter/Annotations").glob("*.xml"):
        text = re.sub("<difficult>.*?</difficult>", "", file.read_text())
        file.write_text(text.replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    with pytest.raises(InputError, match=rf"No image of checks_voc has .*DIFFICULT is {practice}"):
        check_inputs(cfg)
    cfg.DATASETS.DIFFICULT = "train"
    check_inputs(cfg)


VOTING = ["TEST.BOX_VOTING.ENABLED", True]
ITERATIVE = ["TEST.ITERATIVE_BBOX.ENABLED", True]
AUG = ["TEST.AUG.ENABLED", True]


@pytest.mark.parametrize(
    "options, message",
    [
        ([*VOTING, "TEST.BOX_VOTING.IOU_THRESH", -0.1], "IOU_THRESH must be from 0 to 1, not -0.1"),
        ([*VOTING, "TEST.BOX_VOTING.NMS_THRESH", 30], "BOX_VOTING.NMS_THRESH must be .* not 30"),
        ([*VOTING, "TEST.BOX_VOTING.NMS_THRESH", "low"], "BOX_VOTING.NMS_THRESH must .* not 'low'"),
        (
            [*VOTING, "TEST.BOX_VOTING.SCORING_METHOD", "MEAN"],
            "is 'MEAN'. It must be one of: ID, AVG",
        ),
        ([*VOTING, "TEST.BOX_VOTING.SCORING_METHOD_BETA", 0.0], "BETA must be positive, not 0.0"),
        ([*ITERATIVE, "TEST.ITERATIVE_BBOX.NUM_ROUNDS", 0], "NUM_ROUNDS must be at least 1, not 0"),
        ([*ITERATIVE, "TEST.ITERATIVE_BBOX.SCORE_THRESH", 2.0], "SCORE_THRESH must be .* not 2.0"),
        ([*AUG, "TEST.AUG.MIN_SIZES", ()], "MIN_SIZES must hold at least one size"),
        ([*AUG, "TEST.AUG.MIN_SIZES", (480, 0)], "all sizes .* positive, not .480, 0. and 4000"),
        ([*AUG, "MODEL.KEYPOINT_ON", True], "no TEST.AUG for keypoints. MODEL.KEYPOINT_ON False"),
        (
            [*VOTING, "MODEL.META_ARCHITECTURE", "RetinaNet"],
            "require a GeneralizedRCNN with StandardROIHeads, .*, not RetinaNet",
        ),
        ([*VOTING, "MODEL.ROI_HEADS.NAME", "RROIHeads"], "Heads, not RROIHeads"),
        ([*VOTING, "MODEL.ROI_HEADS.NAME", "OtherROIHeads"], "Heads, not OtherROIHeads"),
    ],
)
def test_options_of_test_time(cfg, options, message):
    cfg.merge_from_list(options)
    with pytest.raises(InputError, match=message):
        check_inputs(cfg)
    # What is off is not looked at.
    cfg.merge_from_list(["TEST.BOX_VOTING.ENABLED", False, "TEST.ITERATIVE_BBOX.ENABLED", False])
    cfg.TEST.AUG.ENABLED = cfg.MODEL.KEYPOINT_ON = False
    check_inputs(cfg)


@ROI_HEADS_REGISTRY.register()
class OtherROIHeads(ROIHeads):
    pass


@pytest.mark.parametrize(
    "name, missing",
    [
        ("checks_voc", "clutter/ImageSets/Main/train.txt"),
        ("checks_voc", "clutter"),
        ("checks_coco", "clutter/coco/instances_test.json"),
        ("checks_coco", "clutter/JPEGImages"),
    ],
)
def test_files_of_a_dataset(cfg, tmp_path, name, missing):
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    with pytest.raises(InputError, match=f"{name} .*needs .*{missing}.* DETECTRON2_DATASETS"):
        check_inputs(cfg)


@pytest.fixture
def with_proposals(cfg, tmp_path):
    """
    A config with proposals that fit: of a dataset for each of the names, with one image.
    """

    (tmp_path / "image.jpg").touch()
    image = {"file_name": str(tmp_path / "image.jpg"), "height": 60, "width": 100}

    def records(image_id):
        return [{**image, "image_id": image_id, "annotations": [{"category_id": 0}]}]

    for name in NAMES:
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, lambda name=name: records(f"of_{name}"))
        write(tmp_path / f"{name}.pkl", f"of_{name}")
    cfg.MODEL.LOAD_PROPOSALS = True
    for key in ("TRAIN", "TEST"):
        cfg.DATASETS[f"PROPOSAL_FILES_{key}"] = tuple(
            str(tmp_path / f"{name}.pkl") for name in cfg.DATASETS[key]
        )
    return cfg


def write(path, image_id, x1=100, size=(60, 100)):
    write_proposals(path, make_proposals([image_id], [np.array([[0, 0, x1, 60]])], [size]))


def test_proposal_files(with_proposals):
    cfg = with_proposals
    check_inputs(cfg)
    # Downloaded now: detectron2 would run code in it.
    there, cfg.DATASETS.PROPOSAL_FILES_TEST = (
        cfg.DATASETS.PROPOSAL_FILES_TEST,
        ("https://localhost:1/proposals.pkl",),
    )
    with pytest.raises(InputError, match="localhost:1/proposals.pkl cannot be read: .*refused"):
        check_inputs(cfg)
    cfg.DATASETS.PROPOSAL_FILES_TEST = there
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = ("a.pkl", "b.pkl")
    with pytest.raises(InputError, match="PROPOSAL_FILES_TRAIN is a.pkl, which does not exist"):
        check_inputs(cfg)
    cfg.MODEL.LOAD_PROPOSALS = False
    check_inputs(cfg)
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.WEIGHTS = "https://example.com/weights.pth"
    check_inputs(cfg, eval_only=True)


@pytest.mark.parametrize("name, key", [("checks_plain", "TRAIN"), ("checks_coco", "TEST")])
@pytest.mark.parametrize(
    "content, message",
    [
        ({"image_id": "other"}, "Image of_{name} has no entry in the proposals"),
        ({"x1": 120}, r"Image of_{name}: box 0 \(0, 0, 120, 60\).*beyond"),
        ({"size": (50, 100)}, "Image of_{name}: .* height 50 .* height 60"),
        (None, "{name}.pkl is not a proposal file"),
    ],
)
def test_proposals_of_something_else(with_proposals, tmp_path, name, key, content, message):
    file = tmp_path / f"{name}.pkl"
    if content is None:
        file.write_text("something else")
    else:
        write(file, **{"image_id": f"of_{name}", **content})
    expected = rf"DATASETS.PROPOSAL_FILES_{key}: {file} cannot be used with {name}\. "
    with pytest.raises(InputError, match=expected + "(.*/)?" + message.format(name=name)):
        check_inputs(with_proposals)


def test_only_what_will_be_used_is_looked_for(cfg, tmp_path):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        check_inputs(cfg, eval_only=True)
    cfg.MODEL.WEIGHTS = "https://example.com/weights.pth"
    check_inputs(cfg, eval_only=True)
    cfg.DATASETS.TEST = ()
    with pytest.raises(InputError, match="DATASETS.TEST is empty"):
        check_inputs(cfg, eval_only=True)

    cfg.DATASETS.TRAIN = ("checks_voc",)
    cfg.MODEL.WEIGHTS = "gone.pth"
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000009.pth")
    check_inputs(cfg, resume=True)
    with pytest.raises(InputError, match="gone.pth"):
        check_inputs(cfg)
