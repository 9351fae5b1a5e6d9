"""
Annotations without an error are looked into once.
"""

import io
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from tqdm import tqdm

from ohem_d2.data import dataset_findings
from ohem_d2.data.sound_annotations import check_annotations
from ohem_d2.utils import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def looked_into(monkeypatch):
    """
    The names of the datasets that were looked into.
    """
    names = []
    find = dataset_findings.find_in_files

    def find_in_files(name, is_evaluated=False):
        names.append(name)
        return find(name, is_evaluated)

    monkeypatch.setattr(dataset_findings, "find_in_files", find_in_files)
    return names


@pytest.fixture
def coco(tmp_path):
    """
    A registered dataset of one box; a function that writes it.
    """

    def write(box, **fields):
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, **fields}
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (tmp_path / "coco.json").write_text(json.dumps(content))
        return "a_dataset"

    register_coco_instances("a_dataset", {}, str(tmp_path / "coco.json"), str(tmp_path))
    yield write
    DatasetCatalog.remove("a_dataset")
    MetadataCatalog.pop("a_dataset")


SOUND = {"iscrowd": 0, "area": 100}


def test_again_only_if_something_changes(coco, looked_into):
    name = coco([1, 2, 10, 10], **SOUND)
    for _ in range(3):
        assert check_annotations(name) == 0
    assert len(looked_into) == 1
    coco([1, 2, 10, 11], **SOUND)
    assert check_annotations(name) == 0
    assert len(looked_into) == 2
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    assert check_annotations(name) == 0
    assert len(looked_into) == 3


def test_harmless_findings_are_remembered(coco, looked_into):
    name = coco([50, 2, 20, 10], **SOUND)  # ends at 70, in an image of 60
    assert [check_annotations(name), check_annotations(name)] == [1, 1]
    assert len(looked_into) == 1


def test_errors_are_not_remembered(coco, looked_into):
    name = coco([1, 2, -10, 10], **SOUND)
    for _ in range(2):
        with pytest.raises(InputError, match=r"coco.json: annotation 1 .* negative width"):
            check_annotations(name)
    assert len(looked_into) == 2


def test_evaluation_asks_for_more(coco):
    name = coco([1, 2, 10, 10])
    assert check_annotations(name) == 2  # without iscrowd and area
    with pytest.raises(InputError, match="iscrowd"):
        check_annotations(name, is_evaluated=True)


def test_where_a_file_ends_counts(voc, tmp_path, looked_into):
    # The same bytes, one after the other.
    first, second = (tmp_path / f"voc/Annotations/{x}.xml" for x in ("both", "difficult_alone"))
    texts = first.read_text(), second.read_text()
    second.write_text("\n" + texts[1])
    check_annotations(voc)
    first.write_text(texts[0] + "\n")
    second.write_text(texts[1])
    check_annotations(voc)
    assert len(looked_into) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(coco, cache, looked_into):
    cache.mkdir()
    (cache / "ohem_d2").write_text("a file in the place of a folder")
    name = coco([1, 2, 10, 10], **SOUND)
    assert [check_annotations(name), check_annotations(name)] == [0, 0]
    assert len(looked_into) == 2


def test_progress(voc, coco, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **kwargs):
            super().__init__(**{**kwargs, "disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(dataset_findings, "tqdm", Bar)
    assert list(dataset_findings.find_in_files(voc)) == []
    list(dataset_findings.find_in_files(coco([1, 2, 10, 10])))
    # Four XML files, one annotation.
    assert [(x.n, x.total, x.unit) for x in bars] == [(4, 4, "file"), (1, 1, "annotation")]
