"""
PASCAL VOC 2012's test set, whose annotations are not public.
"""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import Boxes, Instances
from PIL import Image

from ohem_d2.data.dataset_findings import find_in_dataset
from ohem_d2.data.datasets.voc_test import register_voc_test
from ohem_d2.engine.input_checks import check_dataset
from ohem_d2.evaluation import build_evaluator
from ohem_d2.utils import InputError


@pytest.fixture
def voc_test(tmp_path):
    """
    The root of the datasets; it has two images.
    """
    before = DatasetCatalog.pop("voc_2012_test"), MetadataCatalog.pop("voc_2012_test")
    register_voc_test(str(tmp_path))
    folder = tmp_path / "VOC2012"
    for x in ("ImageSets/Main", "JPEGImages"):
        (folder / x).mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("2008_000001\n2008_000002\n")
    Image.new("RGB", (60, 40)).save(folder / "JPEGImages/2008_000001.jpg")
    Image.new("RGB", (30, 50)).save(folder / "JPEGImages/2008_000002.jpg")
    yield tmp_path
    DatasetCatalog.remove("voc_2012_test")
    DatasetCatalog.register("voc_2012_test", before[0])
    MetadataCatalog["voc_2012_test"] = before[1]


def test_images_without_annotations(voc_test):
    records = DatasetCatalog.get("voc_2012_test")
    found = [(x["image_id"], x["width"], x["height"]) for x in records]
    assert found == [("2008_000001", 60, 40), ("2008_000002", 30, 50)]
    assert list(find_in_dataset("voc_2012_test", with_images=False)) == []
    check_dataset("voc_2012_test", "DATASETS.TEST", is_evaluated=True)
    (voc_test / "VOC2012/JPEGImages/2008_000002.jpg").write_text("")
    with pytest.raises(InputError, match=r"2008_000002.jpg cannot be read"):
        check_dataset("voc_2012_test", "DATASETS.TEST")


def test_detections_are_written_and_not_evaluated(voc_test, tmp_path, caplog):
    evaluator = build_evaluator("voc_2012_test", str(tmp_path / "output"))
    evaluator.reset()
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 1, 20, 30]]))
    instances.scores = torch.tensor([0.75])
    instances.pred_classes = torch.tensor([CLASS_NAMES.index("cat")])
    evaluator.process([{"image_id": "2008_000001"}], [{"instances": instances}])
    with caplog.at_level(logging.INFO):
        assert evaluator.evaluate() == {}
    assert "server of its organizers evaluates the files comp4_det_test_*.txt" in caplog.text
    files = {x.name: x.read_text() for x in (tmp_path / "output").iterdir()}
    assert set(files) == {f"comp4_det_test_{x}.txt" for x in CLASS_NAMES}
    # Pixels are counted from 1.
    image_id, *numbers = files.pop("comp4_det_test_cat.txt").split()
    assert image_id == "2008_000001"
    np.testing.assert_array_equal(np.array(numbers, float), [0.75, 1, 2, 20, 30])
    assert not any(files.values())
