"""
What is wrong with the files of a dataset is found, each in a line that names the file.
"""

import json
import re
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from PIL import Image

from ohem_d2.__main__ import main
from ohem_d2.data.dataset_findings import find_in_dataset, find_in_image
from ohem_d2.data.datasets.by_path import register_by_path
from ohem_d2.data.datasets.voc import load_voc_instances, read_annotations
from ohem_d2.engine.input_checks import check_dataset
from ohem_d2.utils import InputError


@pytest.fixture(autouse=True)
def forget_datasets():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


OBJECT = (
    "<object><name>cat</name>{difficult}<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax>"
    "<ymax>{3}</ymax></bndbox></object>"
)


def xml(*box, difficult="", size="<size><width>60</width><height>40</height></size>"):
    return f"<annotation>{size}{OBJECT.format(*box, difficult=difficult)}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """
    A folder with two images; a function that writes the annotations of the first.
    """
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    for x in "ab":
        Image.new("RGB", (60, 40)).save(tmp_path / f"JPEGImages/{x}.jpg")
        (tmp_path / f"Annotations/{x}.xml").write_text(xml(1, 1, 60, 40))

    def write(text):
        (tmp_path / "Annotations/a.xml").write_bytes(text.encode())
        name = f"voc:{tmp_path}:train"
        if name not in DatasetCatalog.list():
            # As if the annotations were broken later: the classes come from them.
            DatasetCatalog.register(
                name, lambda: load_voc_instances(tmp_path, "train", ["cat", "dog"])
            )
            MetadataCatalog.get(name).set(
                thing_classes=["cat", "dog"], dirname=str(tmp_path), split="train", year=2012
            )
        return name

    return write


def test_nothing_is_wrong(voc):
    for difficult in ("", "<difficult> 1 </difficult>"):
        name = voc(xml(1, 1, 60, 40, difficult=difficult))
        assert list(find_in_dataset(name, with_images=False)) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "a.xml is not an XML file"),
        ("<annotation>", "a.xml is not an XML file"),
        (xml("x", 1, 2, 3), r"a.xml: object 1 \(cat\) has no <bndbox> of four numbers"),
        (xml("nan", 1, 2, 3), r"has no <bndbox> of four numbers, .*: nan, 1, 2, 3"),
        (xml("1e999", 1, 2, 3), "has no <bndbox>"),
        (xml(30, 1, 20, 3), "has its corners in the wrong order: 30, 1, 20, 3"),
        (xml(1, 9, 20, 3), "in the wrong order"),
        (
            xml(1, 1, 2, 3).replace("<bndbox>", "<box>").replace("</bndbox>", "</box>"),
            "no <bndbox>",
        ),
        (xml(1, 1, 2, 3).replace("cat", ""), "object 1 has no <name>"),
        (xml(1, 1, 2, 3).replace("cat", "cow"), "is of the class 'cow', .* lacks. It has cat, dog"),
        (xml(1, 1, 2, 3).replace("cat", "cats"), "Did you mean cat"),
        (xml(1, 1, 2, 3, size=""), "a.xml has no <size>"),
        (xml(1, 1, 2, 3, size="<size><width>9</width></size>"), "<size> must have a <height>"),
        (xml(1, 1, 2, 3, size="<size><width>0</width><height>4</height></size>"), "<size> must"),
        (xml(1, 1, 2, 3, difficult="<difficult>yes</difficult>"), "<difficult> yes, which must be"),
        (xml(1, 1, 2, 3, difficult="<difficult>2</difficult>"), "must be 0 or 1"),
    ],
)
def test_errors_of_voc(voc, text, message):
    name = voc(text)
    (finding,) = find_in_dataset(name, with_images=False)
    assert finding.is_error
    with pytest.raises(InputError, match=rf"(?s)a.xml.*{message}|{message}") as error:
        check_dataset(name, "DATASETS.TRAIN")
    assert str(error.value).startswith(finding.text) and "`ohem-d2 check voc:" in str(error.value)


def test_harmless_findings_of_voc(voc, caplog):
    name = voc(xml(1, 1, 61, 40))
    (finding,) = find_in_dataset(name, with_images=False)
    assert not finding.is_error
    assert finding.text.endswith("object 1 has a box beyond its image of 60 x 40: 0, 0, 61, 40.")
    check_dataset(name, "DATASETS.TRAIN")
    assert "has 1 faults that do no harm" in caplog.text and "ohem-d2 check" in caplog.text


def test_difficult_objects(tmp_path):
    for text, expected in (("1", True), (" 1 ", True), ("\n0\n", False), ("", False)):
        difficult = f"<difficult>{text}</difficult>"
        (tmp_path / "a.xml").write_text(xml(1, 1, 2, 3, difficult=difficult))
        (found,) = read_annotations(tmp_path / "a.xml").objects
        assert found.difficult is expected


@pytest.mark.parametrize(
    "text, message", [("", "train.txt is empty"), ("a\nb\na\n", "the image a more than once")]
)
def test_image_sets(voc, tmp_path, text, message):
    name = voc(xml(1, 1, 2, 3))
    (tmp_path / "ImageSets/Main/train.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        check_dataset(name, "DATASETS.TRAIN")


def test_a_set_of_one_image(voc, tmp_path):
    voc(xml(1, 1, 60, 40))
    (tmp_path / "ImageSets/Main/one.txt").write_text("b\n")
    name = f"voc:{tmp_path}:one"
    register_by_path(name)
    (record,) = DatasetCatalog.get(name)
    assert record["image_id"] == "b" and record["annotations"][0]["bbox"] == [0, 0, 60, 40]
    check_dataset(name, "DATASETS.TEST")
    register_pascal_voc("of_detectron2", str(tmp_path), "one", 2012, ["cat"])
    with pytest.raises(InputError, match=f"cannot read a single image: name it voc:{tmp_path}:one"):
        check_dataset("of_detectron2", "DATASETS.TEST")


def coco():
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": 7,
                "image_id": 1,
                "category_id": 3,
                "bbox": [0, 0, 60, 40],
                "iscrowd": 0,
                "area": 1,
            }
        ],
    }


def set_in(key, name, value):
    def change(content):
        if value is None:
            del content[key][0][name]
        else:
            content[key][0][name] = value

    return change


def twice(key):
    return lambda content: content[key].append(dict(content[key][0]))


def check_coco(tmp_path, text):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(text)
    name = f"coco:{tmp_path}/a.json"
    check_dataset(name, "DATASETS.TRAIN")
    return name


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.pop("images"), "is not in COCO's format: it has no list of images"),
        (lambda x: x.update(annotations={}), "it has no list of annotations"),
        (lambda x: x.update(annotations=[1]), "it has no list of annotations"),
        (set_in("images", "height", None), "image 1 has no height and width"),
        (set_in("images", "width", 0), "image 1 has no height and width"),
        (set_in("images", "width", "60"), "image 1 has no height and width"),
        (set_in("images", "file_name", None), "image 1 has no file_name"),
        (set_in("images", "file_name", "b.jpg"), "b.jpg, an image of coco:.*, does not exist"),
        (set_in("images", "id", None), "image 0, counted from 0, has no id"),
        (set_in("annotations", "image_id", 2), "annotation 7 has image_id 2, which the file lacks"),
        (set_in("annotations", "category_id", 0), "annotation 7 has category_id 0, which"),
        (set_in("annotations", "category_id", [3]), "annotation 7 has category_id"),
        (set_in("annotations", "bbox", None), "annotation 7 has no bbox of four numbers"),
        (set_in("annotations", "bbox", [1, 2, 3]), "annotation 7 has no bbox of four numbers"),
        (set_in("annotations", "bbox", [1, 2, float("nan"), 3]), "no bbox of four numbers"),
        (set_in("annotations", "bbox", [1, 2, -3, 3]), "a bbox with a negative width or height"),
        (set_in("annotations", "iscrowd", 2), "has iscrowd 2, which must be 0 or 1"),
        (twice("images"), "the id 1 is of more than one image"),
        (twice("annotations"), "the id 7 is of more than one annotation"),
        (twice("categories"), "the id 3 is of more than one category"),
        (lambda x: x.update(images=[], annotations=[]), "has no images"),
    ],
)
def test_errors_of_coco(tmp_path, change, message):
    content = coco()
    change(content)
    with pytest.raises(InputError, match=message):
        check_coco(tmp_path, json.dumps(content))


@pytest.mark.parametrize("key", ["iscrowd", "area"])
def test_what_cocos_evaluation_needs(tmp_path, key):
    content = coco()
    del content["annotations"][0][key]
    name = check_coco(tmp_path, json.dumps(content))
    (finding,) = find_in_dataset(name, with_images=False)
    assert not finding.is_error
    with pytest.raises(InputError, match=f"annotation 7 has no {key}, which COCO's evaluation"):
        check_dataset(name, "DATASETS.TEST", is_evaluated=True)


def test_coco_files_that_are_cut(tmp_path):
    text = json.dumps(coco())
    check_coco(tmp_path, text)
    for cut in range(0, len(text), 7):
        DatasetCatalog.pop(f"coco:{tmp_path}/a.json", None)
        with pytest.raises(InputError, match=r"a.json"):
            check_coco(tmp_path, text[:cut])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x: x.write_bytes(b""), "it is not an image, or"),
        (lambda x: x.write_bytes(x.read_bytes()[:-200]), "truncated"),
        (lambda x: x.write_text("an html page"), "it is not an image, or"),
        (lambda x: Image.new("RGB", (61, 40)).save(x), r"\(61, 40\)"),
        (lambda x: x.unlink(), "No such file"),
    ],
)
def test_images(tmp_path, spoil, message):
    file = tmp_path / "a.jpg"
    Image.effect_noise((60, 40), 50).save(file)
    record = {"file_name": str(file), "height": 40, "width": 60}
    assert list(find_in_image(record)) == []
    spoil(file)
    (finding,) = find_in_image(record)
    assert str(file) in finding.text
    assert re.search(message, finding.text)


def test_the_command(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ohem-d2", "check", *arguments])
        code = 0
        try:
            main()
        except SystemExit as e:
            code = e.code
        return code, capsys.readouterr().out

    name = check_coco(tmp_path, json.dumps(coco()))
    assert run(name) == (0, "0 errors, and 0 findings that training gets along with.\n")
    (tmp_path / "a.jpg").write_bytes(b"")
    code, printed = run(name)
    assert code == 1 and "a.jpg" in printed and "1 errors, and 0 findings" in printed
    assert run(name, "--annotations-only")[0] == 0
    content = coco()
    content["annotations"][0]["bbox"] = [50, 0, 60, 40]
    content["annotations"].append({**content["annotations"][0], "id": 8, "bbox": [0, 0, 0, 4]})
    (tmp_path / "a.json").write_text(json.dumps(content))
    code, printed = run(name, "--annotations-only")
    first, second, last = printed.splitlines()
    assert code == 0 and last == "0 errors, and 2 findings that training gets along with."
    assert first.startswith("harmless: ") and "annotation 7 has a box beyond" in first
    assert "annotation 8 has an empty box: 0, 0, 0, 4." in second
    assert "names nothing, which is not registered" in run("nothing")[0]


def test_an_image_without_a_file():
    assert list(find_in_image({"image_id": 1, "height": 40, "width": 60})) == []


def test_a_dataset_is_loaded_once(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg")
    loads = []

    def load():
        loads.append(1)
        return [{"file_name": str(tmp_path / "a.jpg"), "height": 40, "width": 61}]

    DatasetCatalog.register("loaded_once", load)
    try:
        (finding,) = find_in_dataset("loaded_once", with_images=True)
        assert "a.jpg cannot be used" in finding.text and len(loads) == 1
    finally:
        DatasetCatalog.remove("loaded_once")
