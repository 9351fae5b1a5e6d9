import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2 import add_ohem_config
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import InputError, check_inputs

NAMES = ("checks_voc", "checks_coco", "checks_lvis", "checks_plain")


@pytest.fixture
def cfg(tmp_path):
    folder = generate_clutter(str(tmp_path), 0, {"train": 1, "test": 1})
    for name in NAMES:
        DatasetCatalog.register(name, list)
    MetadataCatalog.get("checks_voc").set(
        evaluator_type="pascal_voc", dirname=str(folder), split="train"
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
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("DATASETS.TRAIN", ("check_voc",), "check_voc, which is not registered. Did you mean"),
        ("DATASETS.TEST", ("zzz",), r"DATASETS.TEST names zzz, which is not registered\.$"),
        ("DATASETS.TEST", ("checks_lvis",), "evaluated by 'lvis'"),
        ("MODEL.WEIGHTS", "missing.pth", "MODEL.WEIGHTS is missing.pth, which does not exist"),
        ("MODEL.LOAD_PROPOSALS", True, "PROPOSAL_FILES_TRAIN has 0 files for the 2 datasets"),
    ],
)
def test_what_is_not_there_is_named(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(InputError, match=message):
        check_inputs(cfg)


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


def test_proposal_files(cfg, tmp_path):
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = ("a.pkl", str(tmp_path))
    with pytest.raises(InputError, match="PROPOSAL_FILES_TRAIN is a.pkl, which does not exist"):
        check_inputs(cfg)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(tmp_path), str(tmp_path))
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(tmp_path),)
    check_inputs(cfg)


def test_only_what_will_be_used_is_looked_for(cfg, tmp_path):
    cfg.DATASETS.TRAIN = ()
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
