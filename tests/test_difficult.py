import pytest
from conftest import VOC_CLASSES, VOC_IMAGES, make_voc
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc

from ohem_d2.data import handle_difficult_objects

EASY, DIFFICULT = [10, 10, 40, 30], [60, 40, 90, 70]


@pytest.mark.parametrize(
    "practice, both, difficult_alone",
    [
        ("train", [(EASY, 0), (DIFFICULT, 0)], [(DIFFICULT, 0)]),
        ("drop", [(EASY, 0)], []),
        ("ignore", [(EASY, 0), (DIFFICULT, 1)], [(DIFFICULT, 1)]),
    ],
)
def test_practices(voc, practice, both, difficult_alone):
    records = handle_difficult_objects(DatasetCatalog.get(voc), [voc], practice)
    found = {
        x["image_id"]: [(a["bbox"], a.get("iscrowd", 0)) for a in x["annotations"]] for x in records
    }
    assert found == {
        "both": both,
        "difficult_alone": difficult_alone,
        "easy_alone": [(EASY, 0)],
        "without_the_flag": [(EASY, 0)],
    }


def test_images_of_other_datasets_are_left_alone(voc):
    records = DatasetCatalog.get(voc)
    others = [{**x, "file_name": "elsewhere/JPEGImages/1.jpg"} for x in DatasetCatalog.get(voc)]
    found = handle_difficult_objects(records + others, [voc, "coco_2017_train"], "drop")
    assert found[:4] == handle_difficult_objects(records, [voc], "drop")
    assert found[4:] == others
    assert handle_difficult_objects(others, ["coco_2017_train"], "drop") == others


def test_trailing_slash_in_the_registered_folder(tmp_path):
    name = "voc_slash"
    make_voc(tmp_path / "voc", name, VOC_IMAGES)
    dirname = MetadataCatalog.get(name).dirname
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name)
    register_pascal_voc(name, f"{dirname}/", "train", 2012, VOC_CLASSES)
    try:
        dropped = handle_difficult_objects(DatasetCatalog.get(name), [name], "drop")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    assert [len(x["annotations"]) for x in dropped] == [1, 0, 1, 1]


def test_the_input_is_left_alone(voc):
    records = DatasetCatalog.get(voc)
    handle_difficult_objects(records, [voc], "ignore")
    assert records == DatasetCatalog.get(voc)


def test_annotations_that_differ_from_the_file(voc):
    records = DatasetCatalog.get(voc)
    records[0]["annotations"].pop()
    with pytest.raises(ValueError, match=r"both.xml has 2 objects, .* has 1 for this"):
        handle_difficult_objects(records, [voc], "drop")


def test_unknown_practice():
    with pytest.raises(ValueError, match="DATASETS.DIFFICULT is 'skip'. It must be one of"):
        handle_difficult_objects([], [], "skip")
