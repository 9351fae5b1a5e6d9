"""
Datasets that are named by their files.
"""

import json
from pathlib import Path

import pytest
from conftest import make_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ohem_d2.data.datasets.by_path import folder_name, register_by_path
from ohem_d2.engine import load_config
from ohem_d2.engine.input_checks import check_dataset
from ohem_d2.utils import InputError

OBJECTS = {
    "image0": [("dog", (10, 10, 30, 30), 0), ("cat", (5, 5, 20, 20), 1)],
    "image1": [],
}
COCO = {
    "images": [{"id": 7, "file_name": "image0.jpg", "height": 60, "width": 80}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    ],
    # Neither in order nor without gaps.
    "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """
    The current folder, with the same photograph in both formats.
    """
    monkeypatch.chdir(tmp_path)
    before = set(DatasetCatalog.list())
    make_voc(tmp_path / "voc", "made", OBJECTS)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "images/image0.jpg")
    (tmp_path / "train.json").write_text(json.dumps(COCO))
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def write_config(folder, **datasets):
    file = folder / "my_config.yaml"
    lines = [f'  {k}: ("{x}",)' for k, x in datasets.items()]
    file.write_text("\n".join(["DATASETS:", *lines]))
    return str(file)


def test_a_json_file(folder):
    name = "coco:train.json:images"
    register_by_path(name)
    register_by_path(name)  # in each place that looks it up
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == "images/image0.jpg"
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert record["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get(name).evaluator_type == "coco"
    assert folder_name(name) == "coco_train.json_images"
    # Without a folder, images lie beside it.
    (folder / "images/train.json").write_text(json.dumps(COCO))
    register_by_path("coco:images/train.json")
    (record,) = DatasetCatalog.get("coco:images/train.json")
    assert record["file_name"] == "images/image0.jpg"


def test_a_voc_folder(folder):
    name = "voc:voc:train"
    check_dataset(name, "the command line")
    record, _ = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert [x["category_id"] for x in record["annotations"]] == [1, 0]
    assert MetadataCatalog.get(name).evaluator_type == "pascal_voc"


def test_the_number_of_classes_is_theirs_unless_it_is_given(folder):
    config = write_config(folder, TRAIN="coco:train.json:images", TEST="voc:voc:train")
    cfg = load_config(config)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    given = load_config(config, ["MODEL.ROI_HEADS.NUM_CLASSES", "80"])
    assert given.MODEL.ROI_HEADS.NUM_CLASSES == 80
    # What a run has written loads again by itself.
    (folder / "dumped.yaml").write_text(cfg.dump())
    again = load_config(str(folder / "dumped.yaml"))
    assert again.DATASETS == cfg.DATASETS and again.MODEL.ROI_HEADS == cfg.MODEL.ROI_HEADS


def test_classes_that_differ(folder):
    categories = [{"id": 1, "name": "cat"}]
    (folder / "other.json").write_text(json.dumps({**COCO, "categories": categories}))
    config = write_config(folder, TRAIN="coco:train.json:images", TEST="coco:other.json:images")
    with pytest.raises(InputError, match=r"images has the classes cat, dog, but .* cat\."):
        load_config(config)


@pytest.mark.parametrize(
    "name, message",
    [
        ("coco:none.json", "needs none.json: No such file"),
        ("coco:train.json:none", "needs the folder none, which does not exist"),
        ("coco:voc/ImageSets/Main/train.txt", "train.txt cannot be read as json"),
        ("coco:list.json", "list.json is not in COCO's format: it has no list of categories"),
        ("coco:train.json:images:more", "must be coco:JSON"),
        ("voc:voc:none", "needs voc/ImageSets/Main/none.txt, which does not exist"),
        ("voc:voc", r"must be coco:JSON\[:IMAGE_FOLDER\] or voc:FOLDER:IMAGE_SET"),
        ("voc:broken:train", "a.xml is not an XML file"),
        ("voc:empty:train", r"has no \*.xml with the names of objects"),
    ],
)
def test_bad_names(folder, name, message):
    (folder / "list.json").write_text("[]")
    for broken in ("broken", "empty"):
        (folder / broken / "ImageSets/Main").mkdir(parents=True)
        (folder / broken / "ImageSets/Main/train.txt").write_text("a\n")
        (folder / broken / "Annotations").mkdir()
    (folder / "broken/Annotations/a.xml").write_text("<annotation>")
    with pytest.raises(InputError, match=message):
        register_by_path(name)
    with pytest.raises(InputError, match=message):
        load_config(write_config(folder, TRAIN=name))


def test_a_name_that_nobody_registered():
    with pytest.raises(InputError, match=r"is not registered. If a Python .*--import. .*coco:JSON"):
        check_dataset("xyz", "DATASETS.TRAIN")


def test_images_of_another_format(folder):
    register_by_path("voc:voc:train")
    before = DatasetCatalog.get("voc:voc:train")
    image = Path(before[0]["file_name"])
    Image.open(image).save(image.with_suffix(".png"))
    assert DatasetCatalog.get("voc:voc:train") == before  # the .jpg comes first
    image.unlink()
    check_dataset("voc:voc:train", "the command line")
    first, second = DatasetCatalog.get("voc:voc:train")
    assert first == {**before[0], "file_name": str(image.with_suffix(".png"))}
    assert second == before[1]
